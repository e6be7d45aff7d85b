"""The broker: carries the bus, or watches over the one that somebody else runs.

Topics in: `claim` (external brokers). Out: `claim`, its own status and health.

What it keeps: nothing of its own but the users' passwords in ``<home>/secrets/bus/`` and the ports in
``endpoints.json``; the broker's configuration, access rules and password file are made anew in
``<home>/run/broker/`` at every start, and the broker itself keeps nothing on disk.

When it dies the broker dies with it (kernel's word), every client notices, and after the restart each owner
publishes its snapshots and sends its facts again: nothing is lost, because nothing was kept here.
"""
