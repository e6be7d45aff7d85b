"""A watchdog with clocks of its own, for tests of the core."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from bus.topics import Topic
from services.watchdog.core import Node, Used, Watchdog, World
from services.watchdog.fleet import Limits, Usage
from services.watchdog.programs import Said
from services.watchdog.repairs import FileState

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
SERVICES = ("broker", "ingest", "tmux", "approvals", "ledger", "watchdog")
PLENTY = 100 << 30
MIB = 1 << 20


def heartbeat(service: str, at: datetime, **more: Any) -> m.ServiceHealth:
    fields: dict[str, Any] = {
        "service": service,
        "pid": 4_190_000,  # of nobody
        "rss_bytes": 10 * MIB,
        "cpu_percent": 1.0,
        "loop_lag_ms": 1.0,
        "uptime_s": 1.0,
        "queue_depth": 0,
        "errors_total": 0,
        "at": at,
    }
    return m.ServiceHealth(**{**fields, **more})


class Stand:
    """The watchdog and the services around it. ``said`` are all effects so far."""

    def __init__(
        self,
        services: tuple[str, ...] = SERVICES,
        limits: Limits | None = None,
        *,
        supervised: bool = False,
    ) -> None:
        self.services = services
        self.now = START
        self.mono = 1000.0
        self.listening = True
        self.disk_free = PLENTY
        self.config_file: FileState = (0,)
        self.endpoints: dict[str, Any] = {"bus": {"broker": "mosquitto", "port": 1883}}
        self.dog = Watchdog(
            Node(
                name="node",
                version="1.2.3",
                services=services,
                memory_budget_bytes=1000 * MIB,
                started_at=START,
                started_mono=self.mono,
                limits=limits or Limits(),
                supervised=supervised,
            )
        )
        self.sessions: dict[str, m.SessionState] = {}
        self.used: dict[str, int] = {}  # session → MiB of its agent and its children
        self.said: list[Effect] = []

    def beat(self, *services: str, retained: bool = False, age_s: float = 0, **more: Any) -> None:
        for service in services or self.services:
            health = heartbeat(service, self.now - timedelta(seconds=age_s), **more)
            self.dog.heartbeat(service, health, self.mono, self.now, retained=retained)

    def say(self, service: str, word: str, *, retained: bool = False) -> None:
        self.dog.status(service, word, self.mono, retained=retained)

    def supervisor(self, **said: Any) -> None:
        """A word of supervisord's."""
        self.dog.supervisor(Said(**said), self.mono, self.now)

    def later(self, seconds: float, *, beating: tuple[str, ...] = ()) -> list[Effect]:
        """Time passes, with a tick each second; ``beating`` services beat every 10 s."""
        said: list[Effect] = []
        for second in range(round(seconds)):
            self.now += timedelta(seconds=1)
            self.mono += 1
            if beating and second % 10 == 0:
                self.beat(*beating)
            said += self.tick()
        return said

    def tick(self) -> list[Effect]:
        usage = {
            self.sessions[name].uid: Usage(7, 2, size * MIB, 1.5, ((7, 1),))
            for name, size in self.used.items()
        }
        world = World(self.listening, self.disk_free, self.endpoints, Used(usage, {}), self.config_file)
        said = self.dog.tick(world, self.mono, self.now)
        self.said += said
        return said

    def session(self, name: str, status: str = "waiting_input", mib: int = 0, **more: Any) -> None:
        """A session as its owner says it now."""
        before = self.sessions.get(name)
        fields: dict[str, Any] = {
            "session": name, "uid": f"uid-{name}", "node": "node", "kind": "managed", "title": name,
            "status": status, "status_since": self.now, "last_activity_at": self.now,
            "agent": m.AgentInfo(name="claude", version="2.1.329", session_id="c"), "model": None,
            "permission_mode": "default", "cwd": "/", "started_at": START,
        }  # fmt: skip
        if before is not None and before.status == status:
            fields |= {"status_since": before.status_since, "last_activity_at": before.last_activity_at}
        self.sessions[name] = m.SessionState(**{**fields, **more})
        if mib:
            self.used[name] = mib
        self.dog.session(name, self.sessions[name], self.now)

    def events(self) -> list[tuple[str, str]]:
        """(action, session or service) of all events so far."""
        said = published(self.said, t.WATCHDOG_EVENTS)
        return [(e.action, e.session or e.service or "") for e in said]

    def verdict(self, service: str) -> str:
        return self.dog.verdicts(self.mono)[service].value

    def health(self) -> m.NodeHealth:
        """As it was said last."""
        found: m.NodeHealth = published(self.said, t.HEALTH)[-1]
        return found


def published(effects: Iterable[Effect], row: Topic) -> list[Any]:
    return [e.payload for e in effects if isinstance(e, Publish) and e.row is row]
