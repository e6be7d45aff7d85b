"""watchdog: whether all is well on this node, seen from the outside of every service; and first aid.

Reads
    ``services/+/status`` and ``services/+/health`` (heartbeats), ``sessions/index``, ``sessions/+/state``;
    the home's ``endpoints.json`` and free disk space; the memory of our processes (``/proc``).
Writes
    ``health`` (on change, and every 10 s), ``info``, ``breaker``, ``sessions/<s>/resources`` (snapshots);
    ``watchdog/events``; answers ``internal/watchdog/admit``; asks ingest to hibernate and to evict. What
    the tmux controller tells of orphans (``internal/watchdog/orphan``) becomes an event.
Does
    Has supervisord restart hung services; ends what an evicted agent left behind.
Keeps
    Nothing: all that it knows it hears or sees again within ten seconds. Only which sessions sleep because of
    it is forgotten: they sleep on, and wake like any other.
If it dies
    Nobody waits for it: what it would admit is admitted after 5 s. ``health`` stands as it was said last: its
    ``at`` grows old, and so do the watchdog's own heartbeats. The next one begins with the retained
    heartbeats, each as old as it says. If its loop stands still, supervisord has no answer and restarts it.

Read `pulse` first (when a service counts as online, offline or stale), then `programs`, `repairs`, `breaker`,
`fleet`, `core`; `memory`, `processes`, `supervisor` and `shell` touch the world; `metrics` shows supervisord
to Prometheus.
"""
