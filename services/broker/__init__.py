"""The broker: carries the bus, or watches over the one that somebody else runs.

Topics in: ``users/add``, ``users/remove``, ``users/list``; `claim` (external brokers). Out: `claim`; the fact
``users`` to approvals, at every start and change.

What it keeps: the users in ``broker.sqlite``, their passwords in ``<home>/secrets/bus/``, and the ports in
``endpoints.json``; the broker's configuration, access rules and password file are made anew in
``<home>/run/broker/`` at every start and change, and the broker itself keeps nothing on disk.

When it dies the broker dies with it (kernel's word), every client notices, and after the restart each owner
publishes its snapshots and sends its facts again: nothing is lost, because no message was kept here.

Read `core` first, then `users` (who may come), `store`, `child` (a broker's process, on the `leash`;
`amqtt_server` is one) and `shell`.
"""
