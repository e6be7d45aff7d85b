"""supervisord and its listener for Prometheus; they serve nothing themselves (`services/supervision`)."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.watchdog.core import LISTENER
from services.watchdog.programs import Figures, Said

COUNTS = {
    "restarts": "Programs stopped to be started again",
    "refused": "Restarts that were asked for and not carried out",
    "unanswered": "Words of supervisord's that the watchdog had not answered when the next was due",
    "faults": "What went wrong inside supervisord and was passed over",
}


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
