"""The crash test: is anything lost, forged, or counted twice, whatever dies?

`run.py` starts the real stack under supervisord with scripted agents (`services/demo/agent.py`) behind the
real bridge. `drivers.py` are its users: they prompt, approve, deny, look away, change budgets, put sessions
to sleep and wake them, each through a client of its own that keeps to the contract (a command is sent again
until it is answered). Meanwhile `attacks.py` kills, stops and cuts off one process after the other, chosen by
the seed. When it is over and everything has come to rest, `invariants.py` judges by two records that no
service has written: what the agents did (`evidence.py` reads their own record) and what the users were
promised. The services' own words are only held against these.

`python -m tests.chaos --help`; `make chaos`. What was found, and what may still be lost: docs/reliability.md.
"""
