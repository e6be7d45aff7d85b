"""What the watchdog makes of what it hears. Pure: no bus, no clock, no disk.

Two clocks come with each event: ``mono`` (seconds, never set, for ages) and ``now`` (for what is said).
Verdicts are functions of what was heard and of time (`pulse`), so they change by `tick` alone, once a second;
so does everything that is said. ``health`` is said when it has changed in more than its figures, and every
`SAY_EVERY_S`.

| status | when |
|---|---|
| critical | a service that must be there is offline or stale; the disk is nearly full |
| degraded | one is still awaited after our own start; another service is stale; a loop lags; the disk |
|          | runs low; memory has reached `MEMORY_HIGH` of its budget |
| healthy | else |

Silence of `STALE_S` is told once (``service_stale``), whatever the service's last word: a service that its
supervisor brings back sooner is not worth an event. That it is back shows in ``health``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec import structs

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from services.watchdog.breaker import Breaker
from services.watchdog.pulse import STALE_S, Pulse, Verdict

CONTRACT = 1
SAY_EVERY_S = 10.0
LATE_TICK_S = 5.0  # a tick so late means that our own loop stood still, and what has come is not yet read
LAG_HIGH_MS = 1000.0
MEMORY_HIGH = 0.80  # where the breaker is meant to open
DISK_LOW = 1 << 30
DISK_NEARLY_FULL = 100 << 20
DISK_ENOUGH = DISK_LOW + DISK_LOW // 4  # the disk has room again
MAX_SERVICES = 100  # names that we follow: a service's own mistake must not fill our memory


@dataclass(frozen=True, slots=True)
class Node:
    """What does not change while we run. ``services`` are those that must be there."""

    name: str
    version: str
    services: tuple[str, ...]
    memory_budget_bytes: int
    started_at: datetime
    started_mono: float


@dataclass(frozen=True, slots=True)
class World:
    """What the shell measured for a tick. ``listening``: the connection to the bus stands."""

    listening: bool
    disk_free_bytes: int
    endpoints: dict[str, Any] = field(default_factory=dict)


class Watchdog:
    """Events in (methods), effects out."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pulses = {name: Pulse(node.started_mono) for name in node.services}
        self._sessions: dict[str, int] = {}
        self._breaker = Breaker(node.memory_budget_bytes, node.started_at)
        self._disk_low = False
        self._last_tick = node.started_mono
        self._health: m.NodeHealth | None = None
        self._health_mono = 0.0
        self._info: m.Info | None = None

    # what is heard

    def status(self, service: str, word: str, mono: float, *, retained: bool) -> None:
        pulse = self._pulse(service, mono)
        if pulse is not None:
            pulse.says(word, mono, retained=retained)

    def heartbeat(
        self, service: str, health: m.ServiceHealth, mono: float, now: datetime, *, retained: bool
    ) -> None:
        """A retained one counts with the age that its ``at`` gives it; if it has no zone, it has no age."""
        pulse = self._pulse(service, mono)
        if pulse is None:
            return
        if not retained:
            pulse.beats(health, mono, age_s=None)
        elif health.at.tzinfo is not None:
            pulse.beats(health, mono, age_s=(now - health.at).total_seconds())

    def index(self, index: m.SessionIndex) -> None:
        self._sessions = dict(Counter(entry.status for entry in index.sessions))

    def _pulse(self, service: str, mono: float) -> Pulse | None:
        pulse = self._pulses.get(service)
        if pulse is None and len(self._pulses) < MAX_SERVICES:
            pulse = self._pulses[service] = Pulse(mono)
        return pulse

    # what is said

    def tick(self, world: World, mono: float, now: datetime) -> list[Effect]:
        """To be called once a second."""
        if not world.listening or mono - self._last_tick > LATE_TICK_S:
            for pulse in self._pulses.values():
                pulse.not_listening(self._last_tick, mono)
        self._last_tick = mono
        effects = self._missed(mono, now)
        effects += self._disk(world.disk_free_bytes, now)
        self._breaker.measured(self._used_bytes(mono), now)
        health = self._judge(world, mono, now)
        if not self._same(health) or mono - self._health_mono >= SAY_EVERY_S:
            self._health, self._health_mono = health, mono
            effects += [Publish(t.HEALTH, health), Publish(t.BREAKER, self._breaker.snapshot())]
        info = self._about(world.endpoints)
        if info != self._info:
            self._info = info
            effects.append(Publish(t.INFO, info))
        return effects

    def _missed(self, mono: float, now: datetime) -> list[Effect]:
        effects: list[Effect] = []
        watched = mono - self._node.started_mono  # what was retained may be of before everything was stopped
        for name, pulse in self._pulses.items():
            gone = name not in self._node.services and pulse.verdict(mono) is Verdict.OFFLINE
            if pulse.missed or gone or pulse.silence(mono) < STALE_S or watched < STALE_S:
                continue
            pulse.missed = True
            why = (
                f"no heartbeat for {STALE_S:.0f} s"
                if pulse.heard
                else "not heard of since the watchdog's start"
            )
            reason = f"{name} is {pulse.verdict(mono)}: {why}"
            event = m.WatchdogEvent(at=now, action="service_stale", service=name, reason=reason)
            effects.append(Publish(t.WATCHDOG_EVENTS, event))
        return effects

    def _disk(self, free: int, now: datetime) -> list[Effect]:
        low = free < (DISK_ENOUGH if self._disk_low else DISK_LOW)
        if low == self._disk_low:
            return []
        self._disk_low = low
        if not low:
            return []
        reason = f"{free // (1 << 20)} MiB free on the disk of the home"
        return [Publish(t.WATCHDOG_EVENTS, m.WatchdogEvent(at=now, action="disk_low", reason=reason))]

    def _used_bytes(self, mono: float) -> int:
        return sum(
            max(0, pulse.health.rss_bytes)
            for pulse in self._pulses.values()
            if pulse.health is not None and pulse.verdict(mono) is not Verdict.OFFLINE
        )

    def _judge(self, world: World, mono: float, now: datetime) -> m.NodeHealth:
        verdicts = self.verdicts(mono)
        critical: list[str] = []
        degraded: list[str] = []
        for name, verdict in sorted(verdicts.items()):
            pulse = self._pulses[name]
            if name in self._node.services and verdict is not Verdict.ONLINE:
                awaited = not pulse.heard and not pulse.missed
                (degraded if awaited else critical).append(
                    f"{name} has not been heard of yet" if awaited else f"{name} is {verdict}"
                )
            elif verdict is Verdict.STALE:
                degraded.append(f"{name} is stale")
            elif verdict is Verdict.ONLINE and pulse.health and pulse.health.loop_lag_ms > LAG_HIGH_MS:
                degraded.append(f"{name} is slow: its event loop lags")
        if world.disk_free_bytes < DISK_NEARLY_FULL:
            critical.append("the disk of the home is nearly full")
        elif self._disk_low:
            degraded.append("the disk of the home runs low")
        if self._breaker.used_ratio >= MEMORY_HIGH:
            degraded.append("memory is close to its budget")
        return m.NodeHealth(
            status="critical" if critical else "degraded" if degraded else "healthy",
            reasons=[*critical, *degraded],
            services={name: verdict.value for name, verdict in sorted(verdicts.items())},
            sessions=self._sessions,
            memory_used_ratio=self._breaker.used_ratio,
            disk_free_bytes=world.disk_free_bytes,
            uptime_s=round(mono - self._node.started_mono, 1),
            at=now,
        )

    def _same(self, health: m.NodeHealth) -> bool:
        """But for its figures."""
        last = self._health
        return last is not None and last == structs.replace(
            health,
            memory_used_ratio=last.memory_used_ratio,
            disk_free_bytes=last.disk_free_bytes,
            uptime_s=last.uptime_s,
            at=last.at,
        )

    def _about(self, endpoints: dict[str, Any]) -> m.Info:
        bus = endpoints.get("bus", {})
        return m.Info(
            node=self._node.name,
            version=self._node.version,
            contract=CONTRACT,
            broker=str(bus.get("broker", "unknown")),
            started_at=self._node.started_at,
            services=sorted(self._pulses),
            endpoints=endpoints,
        )

    # for metrics

    def verdicts(self, mono: float) -> dict[str, Verdict]:
        return {name: pulse.verdict(mono) for name, pulse in list(self._pulses.items())}

    def silences(self, mono: float) -> dict[str, float]:
        return {name: pulse.silence(mono) for name, pulse in list(self._pulses.items())}

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    @property
    def sessions(self) -> dict[str, int]:
        return self._sessions


def stale_events(effects: Iterable[Effect]) -> int:
    """How many services' silence is told."""
    return sum(
        isinstance(e, Publish)
        and isinstance(e.payload, m.WatchdogEvent)
        and e.payload.action == "service_stale"
        for e in effects
    )
