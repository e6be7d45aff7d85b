"""When a service is started again, and when it is left alone. Pure.

A service that has been silent for so long (`pulse`) hangs, or is cut off for good; whether its last word was
"offline" says nothing, for the broker gives a hung client up as well. It is ended, if its process is there at
all, and supervisord starts it anew. That is done `RESTARTS` times within `RESTARTS_S` at most; one that hangs
again and again needs a person, who is told once (``crash_loop``). The same is told of one that supervisord
starts again and again: `STARTS` different processes within `STARTS_S`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bus import messages as m
from bus import topics as t
from bus.effects import Do, Effect, Publish

RESTARTS = 3
RESTARTS_S = 600.0
SETTLES_S = 30.0  # it has to come up, and its first heartbeat to come
STARTS = 4
STARTS_S = 60.0


@dataclass(frozen=True, slots=True)
class Restart(Do):
    """End this process of a service, if it is that."""

    service: str
    pid: int
    reason: str


@dataclass(slots=True)
class _Patient:
    pid: int = 0
    starts: list[float] = field(default_factory=list)  # monotonic
    tried: float | None = None
    restarts: list[float] = field(default_factory=list)
    told: bool = False


class Repairs:
    """What was done about each service."""

    def __init__(self) -> None:
        self._patients: dict[str, _Patient] = {}

    def beats(self, service: str, pid: int, mono: float, now: datetime) -> list[Effect]:
        """A heartbeat that came now. Returns what is to be told."""
        patient = self._patients.setdefault(service, _Patient())
        if pid == patient.pid:
            return []
        first, patient.pid = patient.pid == 0, pid
        if first:
            return []
        patient.starts = [at for at in patient.starts if mono - at < STARTS_S] + [mono]
        if len(patient.starts) != STARTS:
            return []
        reason = (
            f"{service} was started {STARTS} times within {STARTS_S:.0f} s: see `pointsman logs {service}`"
        )
        return [_event(now, "crash_loop", service, reason)]

    def silent(self, services: Mapping[str, tuple[int, str]], mono: float, now: datetime) -> list[Effect]:
        """``services``: name → (pid, why) of those that are silent now. What was ended is told by `ended`."""
        effects: list[Effect] = []
        for service, (pid, why) in services.items():
            patient = self._patients.setdefault(service, _Patient())
            patient.restarts = [at for at in patient.restarts if mono - at < RESTARTS_S]
            if patient.tried is not None and mono - patient.tried < SETTLES_S:
                continue
            if len(patient.restarts) < RESTARTS:
                patient.tried, patient.told = mono, False
                effects.append(Restart(service, pid, why))
            elif not patient.told:
                patient.told = True
                often = f"{service} hung {RESTARTS} times within {RESTARTS_S / 60:.0f} min"
                reason = f"{often} and is left as it is: see `pointsman logs {service}`"
                effects.append(_event(now, "crash_loop", service, reason))
        return effects

    def ended(self, effect: Restart, mono: float, now: datetime) -> list[Effect]:
        """The process was there, and was ended."""
        self._patients.setdefault(effect.service, _Patient()).restarts.append(mono)
        return [_event(now, "service_restarted", effect.service, effect.reason)]


def _event(now: datetime, action: str, service: str, reason: str) -> Effect:
    event = m.WatchdogEvent(at=now, action=action, service=service, reason=reason)
    return Publish(t.WATCHDOG_EVENTS, event)
