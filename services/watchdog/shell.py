"""The watchdog in the world: the bus, two clocks, the disk. Decides nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterable
from datetime import datetime

import psutil
import trio
from prometheus_client import Counter, Gauge

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.durable import Mailbox
from bus.effects import Do, Effect, Publish, ReplyTo
from services import SERVICES, version
from services._process.config import config_path
from services._process.context import Context
from services._process.station import Station
from services.watchdog.core import LISTENER, Node, Used, Watchdog, World, told
from services.watchdog.fleet import Limits, Sweep
from services.watchdog.memory import Sampler, memory_limit
from services.watchdog.metrics import NodeFigures, SupervisionFigures
from services.watchdog.processes import kill_all, kill_listener
from services.watchdog.programs import Said
from services.watchdog.repairs import FileState, Restart, Start
from services.watchdog.supervisor import Supervisor

TICK_S = 1.0
SAMPLE_TICKS = 2  # memory is measured every other tick
EVICTIONS = {"evicted": "hibernated", "agent_ended": "ended"}  # event → metric


async def serve(context: Context) -> None:
    """Run until cancelled."""
    await Shell(context).run()


class Shell:
    """Carries events to the watchdog and its effects into the world."""

    def __init__(self, context: Context, sampler: Sampler | None = None) -> None:
        self._context = context
        config = context.config
        budget = config.watchdog.memory_budget_bytes(memory_limit(psutil.virtual_memory().total))
        self.watchdog = Watchdog(
            Node(
                name=config.node.name,
                version=version(),
                services=tuple(SERVICES),
                memory_budget_bytes=budget,
                started_at=context.now(),
                started_mono=trio.current_time(),
                limits=Limits(config.watchdog.idle_s, config.watchdog.max_sessions),
                supervised=context.output is not None,
            )
        )
        self.supervisor = (
            Supervisor(self._supervisor_said, context.output, context.log) if context.output else None
        )
        self.sampler = sampler or Sampler(context.home.sessions)
        self._config_file = config.file or config_path(os.environ)
        self._ticks = 0
        connection = sqlite3.connect(":memory:", isolation_level=None)  # nothing of ours must outlive us
        Mailbox.create_tables(connection)
        self.station = Station(context, connection, do=self._do)
        self._stale = Counter(
            "pointsman_service_stale",
            "Times that a service was silent for too long",
            registry=context.registry,
        )
        self._evictions = Counter(
            "pointsman_evictions",
            "Sessions put to sleep, and agents ended, to make room",
            ["how"],
            registry=context.registry,
        )
        for how in EVICTIONS.values():
            self._evictions.labels(how)
        self._restarts = Counter(
            "pointsman_service_restarts", "Hung services restarted", ["name"], registry=context.registry
        )
        for name in (*SERVICES, LISTENER):
            self._restarts.labels(name)
        self._deaths = Counter(
            "pointsman_service_deaths",
            "Processes that ended by themselves",
            ["name"],
            registry=context.registry,
        )
        for name in (*SERVICES, LISTENER):
            self._deaths.labels(name)
        self._orphans = Counter(
            "pointsman_orphans_removed", "Things of ours without a session", registry=context.registry
        )
        self._sampled = Gauge(
            "pointsman_memory_sample_seconds", "How long the last look at all processes took",
            registry=context.registry,
        )  # fmt: skip
        self.figures = NodeFigures(context.registry, self.watchdog)
        supervisord = psutil.Process().ppid() if self.supervisor is not None else None
        self.supervision = SupervisionFigures(context.registry, supervisord)

    async def run(self) -> None:
        station = self.station
        station.on_message(t.SERVICE_STATUS, self._status)
        station.on_message(t.SERVICE_HEALTH, self._heartbeat)
        station.on_message(t.SESSIONS_INDEX, self._index)
        station.on_message(t.SESSION_STATE, self._session)
        station.on_command(t.ADMIT, m.Admit, self._admit)
        station.on_command(t.ORPHAN_REMOVED, m.OrphanRemoved, self._orphan)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            if self.supervisor is not None:
                nursery.start_soon(self.supervisor.run)
            await station.run()

    async def _watch(self) -> None:
        """The first words come after the first tick: by then the retained heartbeats have been read."""
        await trio.sleep(TICK_S)
        self._tick()
        for row in (t.HEALTH, t.INFO, t.BREAKER, t.SESSION_RESOURCES):
            self._context.bus.own(row)
        while True:
            await trio.sleep(TICK_S)
            self._tick()

    def _tick(self) -> None:
        mono = trio.current_time()
        world = World(
            self._context.bus.connected,
            shutil.disk_usage(self._context.home.path).free,
            self._context.home.endpoints(),
            self._measure_memory(mono),
            self._look_at_config(),
        )
        effects = self.watchdog.tick(world, mono, self._context.now())
        self.figures.ticked(world, mono)
        for action in told(effects):
            if action == "service_stale":
                self._stale.inc()
            elif action in EVICTIONS:
                self._evictions.labels(EVICTIONS[action]).inc()
        self.station.act(effects)

    def _measure_memory(self, mono: float) -> Used | None:
        self._ticks += 1
        if self._ticks % SAMPLE_TICKS:
            return None
        start = time.perf_counter()
        sample = self.sampler.sample(self.watchdog.pids(), mono)
        self._sampled.set(time.perf_counter() - start)
        return Used(sample.sessions, sample.services)

    def _look_at_config(self) -> FileState:
        try:
            found = self._config_file.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def _do(self, effect: Do) -> None:
        log = self._context.log
        if isinstance(effect, Restart):
            if self.supervisor is None:
                log.info("hung service left: no supervisord would start it again", name=effect.service)
            elif effect.service == LISTENER:
                self._supervisor_said(Said(restarted=LISTENER, problem=kill_listener(effect.pid)))
            else:
                self.supervisor.restart(effect.service, effect.pid)
        elif isinstance(effect, Start) and self.supervisor is not None:
            self.supervisor.start(effect.service)
        elif isinstance(effect, Sweep):
            ended = kill_all(effect.members)
            log.info("swept after an agent", session=effect.session, ended=ended)

    def _supervisor_said(self, said: Said) -> None:
        self.supervision.heard(said)
        if said.died is not None:
            self._deaths.labels(said.died).inc()
        if said.restarted is not None:
            if said.problem is None:
                self._context.log.warning("hung service restarted", name=said.restarted)
                self._restarts.labels(said.restarted).inc()
            else:
                self._context.log.info(
                    "silent service not restarted", name=said.restarted, reason=said.problem
                )
        if said.started is not None:
            event = "service not started again" if said.problem else "service started again"
            why = said.problem or "it had ended over a mistake in the configuration, and reads it anew"
            self._context.log.info(event, name=said.started, reason=why)
        self.watchdog.supervisor(said, trio.current_time(), self._context.now())

    def _status(self, message: Received, _now: datetime) -> Iterable[Effect]:
        if message.payload:
            word = codec.decode_text(message.payload)
            mono = trio.current_time()
            self.watchdog.status(message.values["self"], word, mono, retained=message.retained)
        return ()

    def _heartbeat(self, message: Received, now: datetime) -> Iterable[Effect]:
        if message.payload:
            health = codec.decode(t.SERVICE_HEALTH, message.payload, m.ServiceHealth)
            mono = trio.current_time()
            self.watchdog.heartbeat(message.values["self"], health, mono, now, retained=message.retained)
        return ()

    def _index(self, message: Received, _now: datetime) -> Iterable[Effect]:
        if message.payload:
            self.watchdog.index(codec.decode(t.SESSIONS_INDEX, message.payload, m.SessionIndex))
        return ()

    def _session(self, message: Received, now: datetime) -> Iterable[Effect]:
        state = codec.decode(t.SESSION_STATE, message.payload, m.SessionState) if message.payload else None
        self.watchdog.session(message.values["session"], state, now)
        return ()

    def _admit(self, command: m.Admit, _values: dict[str, str], now: datetime) -> Iterable[Effect]:
        self.watchdog.admit(now)
        return [ReplyTo(command.id)]

    def _orphan(self, command: m.OrphanRemoved, _values: dict[str, str], now: datetime) -> Iterable[Effect]:
        self._orphans.inc()
        event = m.WatchdogEvent(at=now, action="orphan_removed", reason=command.reason[:500])
        return [Publish(t.WATCHDOG_EVENTS, event), ReplyTo(command.id)]
