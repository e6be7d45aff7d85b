"""The watchdog in the world: the bus, two clocks, the disk. Decides nothing."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable
from datetime import datetime

import psutil
import trio
from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.durable import Mailbox
from bus.effects import Effect
from services import SERVICES
from services._process.context import Context
from services._process.metrics import version
from services._process.station import Station
from services.watchdog.breaker import State
from services.watchdog.core import Node, Watchdog, World, stale_events
from services.watchdog.pulse import Verdict

TICK_S = 1.0
STATUSES = frozenset(
    {
        "starting", "ready", "working", "waiting_approval", "waiting_input", "compacting", "disconnected",
        "hibernating", "hibernated", "waking", "ended", "failed",
    }
)  # fmt: skip


async def serve(context: Context) -> None:
    """Run until cancelled."""
    await Shell(context).run()


class Shell:
    """Carries events to the watchdog and its effects into the world."""

    def __init__(self, context: Context) -> None:
        self._context = context
        config = context.config
        budget = config.watchdog.memory_budget_bytes(psutil.virtual_memory().total)
        self.watchdog = Watchdog(
            Node(
                name=config.node.name,
                version=version(),
                services=tuple(SERVICES),
                memory_budget_bytes=budget,
                started_at=context.now(),
                started_mono=trio.current_time(),
            )
        )
        connection = sqlite3.connect(":memory:", isolation_level=None)  # nothing of ours must outlive us
        Mailbox.create_tables(connection)
        self.station = Station(context, connection)
        self._disk_free = self._measure_disk()
        self._stale = Counter(
            "pointsman_service_stale",
            "Times that a service was silent for too long",
            registry=context.registry,
        )
        context.registry.register(NodeFigures(self))

    async def run(self) -> None:
        station = self.station
        station.on_message(t.SERVICE_STATUS, self._status)
        station.on_message(t.SERVICE_HEALTH, self._heartbeat)
        station.on_message(t.SESSIONS_INDEX, self._index)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            await station.run()

    async def _watch(self) -> None:
        """The first words come after the first tick: by then the retained heartbeats have been read."""
        await trio.sleep(TICK_S)
        self._tick()
        for row in (t.HEALTH, t.INFO, t.BREAKER):
            self._context.bus.own(row)
        while True:
            await trio.sleep(TICK_S)
            self._tick()

    def _tick(self) -> None:
        self._disk_free = self._measure_disk()
        self.mono = trio.current_time()
        world = World(self._context.bus.connected, self._disk_free, self._context.home.endpoints())
        effects = self.watchdog.tick(world, self.mono, self._context.now())
        self._stale.inc(stale_events(effects))
        self.station.act(effects)

    def _measure_disk(self) -> int:
        return shutil.disk_usage(self._context.home.path).free

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

    # for metrics, read in a thread of their own

    mono = 0.0  # of the last tick

    @property
    def disk_free_bytes(self) -> int:
        return self._disk_free


class NodeFigures(Collector):
    """Read when Prometheus asks."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def collect(self) -> Iterable[Metric]:
        dog, mono = self._shell.watchdog, self._shell.mono
        online = GaugeMetricFamily("pointsman_service_online", "1 while it is", labels=["name"])
        for name, verdict in dog.verdicts(mono).items():
            online.add_metric([name], float(verdict is Verdict.ONLINE))
        yield online
        silence = GaugeMetricFamily(
            "pointsman_service_silence_seconds", "Since the last sign of life", labels=["name"]
        )
        for name, seconds in dog.silences(mono).items():
            silence.add_metric([name], seconds)
        yield silence
        sessions = GaugeMetricFamily("pointsman_sessions", "Sessions by status", labels=["status"])
        counts = dict.fromkeys((*STATUSES, "other"), 0)
        for status, count in dog.sessions.items():
            counts[status if status in STATUSES else "other"] += count
        for status, count in sorted(counts.items()):
            sessions.add_metric([status], count)
        yield sessions
        state = GaugeMetricFamily("pointsman_breaker_state", "1 for the state it is in", labels=["state"])
        for name in State:
            state.add_metric([name.value], float(dog.breaker.state is name))
        yield state
        for name, value, about in (
            ("memory_used_bytes", dog.breaker.used_bytes, "Resident memory that the breaker sees"),
            ("memory_budget_bytes", dog.breaker.budget_bytes, "What that may become"),
            ("disk_free_bytes", self._shell.disk_free_bytes, "On the disk of the home"),
        ):
            yield GaugeMetricFamily(f"pointsman_{name}", about, value=value)
