"""When a service is started again, and when it is left alone. Pure.

A service that has been silent for so long (`pulse`) hangs, or is cut off for good; whether its last word was
"offline" says nothing, for the broker gives a hung client up as well. supervisord is asked to restart it, if
that process is there at all. That is done `RESTARTS` times within `RESTARTS_S` at most; one that hangs again
and again needs a person, who is told once (``crash_loop``). The same is told of one whose processes die again
and again: `DEATHS` within `DEATHS_S`.

One that ended over a mistake in the configuration is left alone by supervisord. It is started again once for
each state of the file, the present one included: it may have been mended since the service read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from bus import messages as m
from bus import topics as t
from bus.effects import Do, Effect, Publish

RESTARTS = 3
RESTARTS_S = 600.0
SETTLES_S = 30.0  # it has to come up, and its first heartbeat to come
DEATHS = 4
DEATHS_S = 60.0


@dataclass(frozen=True, slots=True)
class Restart(Do):
    """Have this process of a service stopped, if it is that, and another one started."""

    service: str
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class Start(Do):
    """Have a service started that ended and was left alone."""

    service: str


FileState = tuple[int, ...] | None
"""Differs for each change of a file; None where there is none."""


@dataclass(slots=True)
class _Patient:
    deaths: list[float] = field(default_factory=list)  # monotonic
    tried: float | None = None
    why: str = ""  # it was tried
    restarts: list[float] = field(default_factory=list)
    told: bool = False


class Repairs:
    """What was done about each service."""

    def __init__(self) -> None:
        self._patients: dict[str, _Patient] = {}
        self._asked: dict[str, FileState] = {}  # service → the configuration that it is to read anew
        self._read: dict[str, FileState] = {}  # service → the one that it was started with again

    def died(self, service: str, mono: float, now: datetime) -> list[Effect]:
        """A process of it ended by itself. Returns what is to be told."""
        patient = self._patients.setdefault(service, _Patient())
        patient.deaths = [at for at in patient.deaths if mono - at < DEATHS_S] + [mono]
        if len(patient.deaths) < DEATHS:
            return []
        patient.deaths = []
        reason = f"{service} died {DEATHS} times within {DEATHS_S:.0f} s: see `pointsman logs {service}`"
        return [_event(now, "crash_loop", service, reason)]

    def silent(self, services: Mapping[str, tuple[int, str]], mono: float, now: datetime) -> list[Effect]:
        """``services``: name → (pid, why) of those silent now. What came of it is told by `restarted`."""
        effects: list[Effect] = []
        for service, (pid, why) in services.items():
            patient = self._patients.setdefault(service, _Patient())
            patient.restarts = [at for at in patient.restarts if mono - at < RESTARTS_S]
            if patient.tried is not None and mono - patient.tried < SETTLES_S:
                continue
            if len(patient.restarts) < RESTARTS:
                patient.tried, patient.why, patient.told = mono, why, False
                effects.append(Restart(service, pid, why))
            elif not patient.told:
                patient.told = True
                often = f"{service} hung {RESTARTS} times within {RESTARTS_S / 60:.0f} min"
                reason = f"{often} and is left as it is: see `pointsman logs {service}`"
                effects.append(_event(now, "crash_loop", service, reason))
        return effects

    def restarted(self, service: str, why: str | None, mono: float, now: datetime) -> list[Effect]:
        """It was stopped, and is being started. ``why``: it was not we who asked for it."""
        patient = self._patients.setdefault(service, _Patient())
        patient.restarts.append(mono)
        return [_event(now, "service_restarted", service, why or patient.why)]

    def mistaken(self, services: Iterable[str], file: FileState) -> list[Effect]:
        """These ended over a mistake in the configuration. What came of it is told by `started`."""
        again = [name for name in services if name not in self._read or self._read[name] != file]
        self._asked.update(dict.fromkeys(again, file))
        return [Start(name) for name in again]

    def started(self, service: str, now: datetime) -> list[Effect]:
        """It is being started, and reads the configuration anew."""
        if service in self._asked:
            self._read[service] = self._asked.pop(service)
        reason = f"{service} had ended over a mistake in the configuration, and reads it anew"
        return [_event(now, "service_restarted", service, reason)]


def _event(now: datetime, action: str, service: str, reason: str) -> Effect:
    event = m.WatchdogEvent(at=now, action=action, service=service, reason=reason)
    return Publish(t.WATCHDOG_EVENTS, event)
