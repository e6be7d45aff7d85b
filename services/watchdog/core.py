"""What the watchdog makes of what it hears. Pure: no bus, no clock, no disk.

Two clocks come with each event: ``mono`` (seconds, never set, for ages) and ``now`` (for what is said).
Verdicts are functions of what was heard and of time (`pulse`), so they change by `tick` alone, once a second;
so does everything that is said. ``health`` is said when it has changed in more than its figures, and every
`SAY_EVERY_S`.

| status | when |
|---|---|
| critical | a service that must be there is offline or stale; the disk is nearly full |
| degraded | one is still awaited after our own start; another service is stale; a loop lags; |
|          | supervisord is silent; the disk runs low; memory has reached `MEMORY_HIGH` of its |
|          | budget; the breaker is not closed |
| healthy | else |

Silence of `STALE_S` is told once (``service_stale``), whatever the service's last word: a service that its
supervisor brings back sooner is not worth an event. That it is back shows in ``health``. What is done about a
service that hangs stands in `repairs`, what about memory in `breaker` and `fleet`; here it is put together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec import structs

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from services.watchdog.breaker import Breaker, Measured, State
from services.watchdog.fleet import Fleet, Limits, Usage
from services.watchdog.programs import Program, Said, cause, mistaken
from services.watchdog.pulse import STALE_S, Pulse, Verdict
from services.watchdog.repairs import FileState, Repairs

CONTRACT = 1
LISTENER = "supervision"  # between supervisord and us
SAY_EVERY_S = 10.0
LATE_TICK_S = 5.0  # a tick so late means that our own loop stood still, and what has come is not yet read
LAG_HIGH_MS = 1000.0
MEMORY_HIGH = 0.80  # where the breaker opens
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
    limits: Limits = field(default_factory=Limits)
    supervised: bool = False  # by supervisord, which then speaks with us


@dataclass(frozen=True, slots=True)
class Used:
    """A measurement of memory: by uid of the session, by name of the service."""

    sessions: Mapping[str, Usage]
    services: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class World:
    """What the shell measured for a tick. ``listening``: the connection to the bus stands. ``used``: memory,
    if it was measured anew. ``config_file``: the state of the configuration file.
    """

    listening: bool
    disk_free_bytes: int
    endpoints: dict[str, Any] = field(default_factory=dict)
    used: Used | None = None
    config_file: FileState = None


class Watchdog:
    """Events in (methods), effects out."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pulses = {name: Pulse(node.started_mono) for name in node.services}
        self._sessions: dict[str, int] = {}
        self._programs: dict[str, Program] = {}
        self._programs_mono = node.started_mono  # when supervisord spoke of them last
        self._mistaken: list[str] = []  # that supervisord has just said to have ended so
        self._breaker = Breaker(node.memory_budget_bytes, node.started_at)
        self.fleet = Fleet(node.limits)
        self.repairs = Repairs()
        self._used = Used({}, {})
        self._shown: dict[str, float] = {}  # session → when its resources were said (monotonic)
        self._told: list[Effect] = []  # to be said with the next tick
        self._disk_low = False
        self._last_tick = node.started_mono
        self._said_state, self._said_evicted = "", list[str]()
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
        """A retained one counts with the age that its ``at`` gives it."""
        pulse = self._pulse(service, mono)
        if pulse is not None:
            pulse.beats(health, mono, age_s=(now - health.at).total_seconds() if retained else None)

    def index(self, index: m.SessionIndex) -> None:
        self._sessions = dict(Counter(entry.status for entry in index.sessions))

    def session(self, name: str, state: m.SessionState | None, now: datetime) -> None:
        """A session's state; None: it is forgotten."""
        if state is None:
            self.fleet.gone(name)
        else:
            self._told += [Publish(t.WATCHDOG_EVENTS, event) for event in self.fleet.heard(state, now)]

    def supervisor(self, said: Said, mono: float, now: datetime) -> None:
        """A word of supervisord's."""
        if said.processes:
            self._programs = {program.name: program for program in said.processes}
            self._programs_mono = mono
            self._mistaken = [program.name for program in said.processes if mistaken(program)]
        if said.died is not None:
            self._told += self.repairs.died(said.died, mono, now)
        if said.restarted is not None and said.problem is None:
            self._told += self.repairs.restarted(said.restarted, said.reason, mono, now)
        if said.started is not None and said.problem is None:
            self._told += self.repairs.started(said.started, now)

    def admit(self, now: datetime) -> None:
        """May an agent be started? Raises `RefusedError` (``breaker_open``)."""
        self._breaker.asked(now)

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
        if mono - self._last_tick > LATE_TICK_S:
            self._programs_mono = max(self._programs_mono, mono - LATE_TICK_S)
        self._last_tick = mono
        effects, self._told = self._told, []
        effects += self._missed(mono, now)
        effects += self.repairs.silent(self._silent(world, mono), mono, now)
        effects += self.repairs.mistaken(self._mistaken, world.config_file)
        self._mistaken = []
        effects += self._disk(world.disk_free_bytes, now)
        effects += self._memory(world, mono, now)
        health = self._judge(world, mono, now)
        breaker = self._breaker.snapshot()
        if breaker.state != self._said_state or breaker.evicted != self._said_evicted:
            self._said_state, self._said_evicted = breaker.state, breaker.evicted
            self._health = None  # say both
        if not self._same(health) or mono - self._health_mono >= SAY_EVERY_S:
            self._health, self._health_mono = health, mono
            effects += [Publish(t.HEALTH, health), Publish(t.BREAKER, breaker)]
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

    def _silent(self, world: World, mono: float) -> dict[str, tuple[int, str]]:
        """The services that have been silent for too long, with the pid of their last heartbeat."""
        found: dict[str, tuple[int, str]] = {}
        if world.listening and mono - self._node.started_mono >= STALE_S:
            for name, pulse in self._pulses.items():
                if pulse.silence(mono) >= STALE_S and pulse.health is not None:
                    found[name] = pulse.health.pid, f"no heartbeat for {pulse.silence(mono):.0f} s: it hung"
        listener = self._programs.get(LISTENER)
        if listener is not None and self._unsupervised(mono):
            quiet = mono - self._programs_mono
            found[LISTENER] = (
                listener.pid,
                f"it has passed on no word of supervisord's for {quiet:.0f} s: it hung",
            )
        return found

    def _unsupervised(self, mono: float) -> bool:
        """supervisord is silent: nothing that hangs is restarted."""
        return self._node.supervised and mono - self._programs_mono >= STALE_S

    def _memory(self, world: World, mono: float, now: datetime) -> list[Effect]:
        if world.used is not None:
            self._used = world.used
        used = self._used_bytes(mono)
        self._breaker.evicted = self.fleet.evicted
        seen = Measured(used, world.disk_free_bytes, self.fleet.failed(now))
        effects: list[Effect] = [
            Publish(t.WATCHDOG_EVENTS, event) for event in self._breaker.measured(seen, now)
        ]
        if not world.listening:
            return effects  # what we know of the sessions is old
        effects += self.fleet.rest(mono, now)
        effects += self.fleet.sweep()
        if world.used is not None:
            budget = self._node.memory_budget_bytes
            effects += self.fleet.relieve(used, budget, world.used.sessions, mono, now)
            effects += self._resources(mono, now)
        return effects

    def _resources(self, mono: float, now: datetime) -> list[Effect]:
        """Every `SAY_EVERY_S` for each session that has processes; cleared for one that has none any more."""
        effects: list[Effect] = []
        there = set()
        for uid, usage in self._used.sessions.items():
            member = self.fleet.members.get(uid)
            if member is None or member.state.status in {"ended", "failed"}:
                continue
            name = member.state.session
            there.add(name)
            if mono - self._shown.get(name, mono - SAY_EVERY_S) >= SAY_EVERY_S:
                self._shown[name] = mono
                said = m.Resources(
                    session=name,
                    uid=uid,
                    pid=usage.pid,
                    processes=usage.processes,
                    rss_bytes=usage.rss_bytes,
                    cpu_percent=usage.cpu_percent,
                    at=now,
                )
                effects.append(Publish(t.SESSION_RESOURCES, said, {"session": name}))
        for name in self._shown.keys() - there:
            del self._shown[name]
            effects.append(Publish(t.SESSION_RESOURCES, None, {"session": name}))
        return effects

    def _used_bytes(self, mono: float) -> int:
        """Of all services (one that was not measured counts as it says itself) and of the agents we know."""
        services = sum(
            self._used.services.get(name) or max(0, pulse.health.rss_bytes)
            for name, pulse in self._pulses.items()
            if pulse.health is not None and pulse.verdict(mono) is not Verdict.OFFLINE
        )
        return services + sum(
            usage.rss_bytes for uid, usage in self._used.sessions.items() if uid in self.fleet.members
        )

    def _judge(self, world: World, mono: float, now: datetime) -> m.NodeHealth:
        verdicts = self.verdicts(mono)
        critical: list[str] = []
        degraded: list[str] = []
        for name, verdict in sorted(verdicts.items()):
            pulse = self._pulses[name]
            why = cause(self._programs.get(name))
            if name in self._node.services and verdict is not Verdict.ONLINE and why is not None:
                critical.append(f"{name} is {verdict}: {why}")
            elif name in self._node.services and verdict is not Verdict.ONLINE:
                awaited = not pulse.heard and not pulse.missed
                (degraded if awaited else critical).append(
                    f"{name} has not been heard of yet" if awaited else f"{name} is {verdict}"
                )
            elif verdict is Verdict.STALE:
                degraded.append(f"{name} is stale")
            elif verdict is Verdict.ONLINE and pulse.health and pulse.health.loop_lag_ms > LAG_HIGH_MS:
                degraded.append(f"{name} is slow: its event loop lags")
        if self._unsupervised(mono):
            degraded.append("supervisord does not answer: what hangs is not restarted")
        if world.disk_free_bytes < DISK_NEARLY_FULL:
            critical.append("the disk of the home is nearly full")
        elif self._disk_low:
            degraded.append("the disk of the home runs low")
        if self._breaker.used_ratio >= MEMORY_HIGH:
            degraded.append("memory is close to its budget")
        if self._breaker.state is not State.CLOSED:
            degraded.append(f"the breaker is {self._breaker.state.replace('_', ' ')}: {self._breaker.cause}")
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

    def pids(self) -> dict[int, str]:
        """The processes of the services, as they say."""
        return {p.health.pid: name for name, p in self._pulses.items() if p.health and p.health.pid > 1}

    def usages(self) -> dict[str, Usage]:
        """By the names of the sessions that have processes."""
        members = self.fleet.members
        return {
            members[uid].state.session: usage
            for uid, usage in dict(self._used.sessions).items()
            if uid in members
        }

    def service_memory(self) -> dict[str, int]:
        """PSS of each service that runs, with its children."""
        return dict(self._used.services)

    @property
    def breaker(self) -> Breaker:
        return self._breaker

    @property
    def sessions(self) -> dict[str, int]:
        return self._sessions


def told(effects: Iterable[Effect]) -> list[str]:
    """The actions of the events among these."""
    return [
        e.payload.action for e in effects if isinstance(e, Publish) and isinstance(e.payload, m.WatchdogEvent)
    ]
