"""The services: one process each, which never import each other and speak over the bus alone.

`SERVICES` is the table of those that supervisord starts. supervisord.conf, the broker's users, the metrics
ports, the watchdog and `pointsman doctor` follow it; tests/meta/test_layout.py holds them to it.

Beside them stand programs that are no services: `bridge` (one per agent, in its tmux window), `cli` (the
``pointsman`` command), `demo` (a scripted model), `supervision` (what runs inside supervisord), and
`_process`, the shell that the services share.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass


def version() -> str:
    """Pointsman's version."""
    try:
        return importlib.metadata.version("pointsman")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """``metrics_port`` is added to ``metrics.base_port``. ``reads`` and ``writes`` are for people;
    what is enforced stands in `bus.topics`.
    """

    name: str
    metrics_port: int
    about: str
    reads: str
    writes: str


SERVICES: Mapping[str, ServiceInfo] = {
    info.name: info
    for info in (
        ServiceInfo("broker", 0, "Carries the bus: mosquitto or amqtt, and its users.", "users", "replies"),
        ServiceInfo(
            "ingest", 1, "Talks to agents; owns the sessions.", "session commands, facts", "sessions"
        ),
        ServiceInfo("tmux", 2, "Starts, finds and ends agents in tmux.", "create, end, facts", "facts"),
        ServiceInfo("approvals", 3, "Decides what agents may do.", "decisions, facts", "approvals, facts"),
        ServiceInfo("ledger", 4, "Records what sessions spend.", "budgets, facts", "ledger, facts"),
        ServiceInfo("watchdog", 5, "Watches services and memory.", "health, states", "health, breaker"),
    )
}
