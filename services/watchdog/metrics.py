"""The node for Prometheus; and supervisord with its listener, which serve nothing themselves."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.watchdog.breaker import State
from services.watchdog.core import LISTENER, Watchdog, World
from services.watchdog.programs import Figures, Said
from services.watchdog.pulse import Verdict

COUNTS = {
    "restarts": "Programs stopped to be started again",
    "refused": "Restarts that were asked for and not carried out",
    "unanswered": "Words of supervisord's that the watchdog had not answered when the next was due",
    "faults": "What went wrong inside supervisord and was passed over",
    "lines_lost": "Lines of the services' logs that could not be written, at most",
}


class NodeFigures(Collector):
    """Read when it asks, in a thread of its own: as the last tick saw them."""

    def __init__(self, registry: CollectorRegistry, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._mono = 0.0
        self._disk_free_bytes: int | None = None
        registry.register(self)

    def ticked(self, world: World, mono: float) -> None:
        self._disk_free_bytes, self._mono = world.disk_free_bytes, mono

    def collect(self) -> Iterable[Metric]:
        dog, mono = self._watchdog, self._mono
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
        state = GaugeMetricFamily("pointsman_breaker_state", "1 for the state it is in", labels=["state"])
        for name in State:
            state.add_metric([name.value], float(dog.breaker.state is name))
        yield state
        memory = GaugeMetricFamily(
            "pointsman_session_memory_bytes", "Of a session's agent and all its children", labels=["session"]
        )
        processes = GaugeMetricFamily(
            "pointsman_session_processes", "A session's agent and all its children", labels=["session"]
        )
        for session, usage in sorted(dog.usages().items()):
            memory.add_metric([session], usage.rss_bytes)
            processes.add_metric([session], usage.processes)
        yield memory
        yield processes
        services = GaugeMetricFamily(
            "pointsman_service_memory_bytes", "Of a service with all its children", labels=["name"]
        )
        for name, size in sorted(dog.service_memory().items()):
            services.add_metric([name], size)
        yield services
        for name, value, about in (
            ("memory_used_bytes", dog.breaker.used_bytes, "Resident memory that the breaker sees"),
            ("memory_budget_bytes", dog.breaker.budget_bytes, "What that may become"),
            ("disk_free_bytes", self._disk_free_bytes, "On the disk of the home"),
        ):
            if value is not None:
                yield GaugeMetricFamily(f"pointsman_{name}", about, value=value)


class SupervisionFigures(Collector):
    """As they were told last. ``supervisord``: its pid; None: there is none, and so nothing to tell."""

    def __init__(self, registry: CollectorRegistry, supervisord: int | None) -> None:
        self._figures: Figures | None = None
        self._listener = 0  # no process
        if supervisord is not None:
            registry.register(self)
            ProcessCollector("pointsman_supervisord", lambda: supervisord, registry=registry)
            ProcessCollector("pointsman_supervision", lambda: self._listener, registry=registry)

    def heard(self, said: Said) -> None:
        if said.processes:
            self._figures = said.figures
            self._listener = next((p.pid for p in said.processes if p.name == LISTENER), 0)

    def collect(self) -> Iterable[Metric]:
        figures = self._figures
        if figures is None:
            return
        taken = CounterMetricFamily(
            "pointsman_supervision_events", "Events that the listener took", labels=["event"]
        )
        for event, count in figures.events.items():
            taken.add_metric([event], count)
        yield taken
        for name, about in COUNTS.items():
            yield CounterMetricFamily(f"pointsman_supervision_{name}", about, value=getattr(figures, name))
