"""The process shell that all services share: what is around a service's own core and shell.

config, config_rules   the configuration, and what a value may be
home, ports            the directory where everything lies; which port a listener gets
logs, redact           JSON lines without secrets
output                 where they go without waiting: a file, or supervisord
metrics                the Prometheus endpoint
store, station         a service's database; the loop of an owner on the bus
context                what a service's shell is handed
run                    from the command line to the exit code
errors                 whose fault, and so which exit code
"""
