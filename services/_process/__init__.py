"""The process shell that all services share: what is around a service's own core and shell.

config_keys            the configuration: sections, keys, defaults
config, config_rules   how it is read; what a value may be
home, ports            the directory where everything lies; which port a listener gets
logs, redact           JSON lines without secrets
output                 where they go without waiting: a file, or supervisord
metrics                the Prometheus endpoint
store, station         a service's database; the loop of an owner on the bus
damage                 a database that is damaged: set aside
connect                where the bus is, with which password
admission              asks the watchdog whether an agent may be started
context                what a service's shell is handed
run                    from the command line to the exit code
lock, parent           one process per service and home; its end with supervisord's
pids                   processes, so that no signal hits another one
errors                 whose fault, and so which exit code
hook_settings          the hooks that Claude Code is given
session_start          a program: one of those hooks, which takes no URL
"""
