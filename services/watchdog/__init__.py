"""watchdog: whether all is well on this node, seen from the outside of every service.

Reads
    ``services/+/status`` and ``services/+/health`` (heartbeats), ``sessions/index``; the home's
    ``endpoints.json`` and free disk space.
Writes
    ``health`` (on change, and every 10 s), ``info``, ``breaker`` (snapshots); ``watchdog/events``:
    ``service_stale`` and ``disk_low``.
Keeps
    Nothing: all that it knows it hears again within ten seconds.
If it dies
    Nobody waits for it. ``health`` stands as it was said last: its ``at`` grows old, and so do the watchdog's
    own heartbeats. The next one begins with the retained heartbeats, each as old as it says.

Read `pulse` first (when a service counts as online, offline or stale), then `core`, `breaker`, `shell`.
"""
