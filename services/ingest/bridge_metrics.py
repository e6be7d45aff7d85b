"""What the bridges tell of themselves and their keepers (`bus.bridge_wire.Figures`), for Prometheus.

The bridge of a living session has its series while it is connected, as it told last: ended sessions leave
nothing. One of before there were figures (a bridge lives on over an update) tells none; that it is there
shows in ``pointsman_bridge_info``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bus import bridge_wire as bw
from services.ingest.core import Sessions

UNKNOWN = "unknown"  # version of a bridge that tells none

Family = type[GaugeMetricFamily] | type[CounterMetricFamily]
Rows = tuple[tuple[Family, str, str, Callable[[bw.Figures], int | float]], ...]

OF_BRIDGE: Rows = (
    (GaugeMetricFamily, "start_time_seconds", "The bridge's, after 1970", lambda f: f.bridge.started_s),
    (GaugeMetricFamily, "resident_memory_bytes", "Of the bridge itself", lambda f: f.bridge.rss_bytes),
    (CounterMetricFamily, "cpu_seconds", "Of the bridge itself", lambda f: f.bridge.cpu_s),
    (GaugeMetricFamily, "open_fds", "Open files of the bridge", lambda f: f.bridge.open_fds),
    (GaugeMetricFamily, "journal_bytes", "Of the agent's output, on the disk", lambda f: f.journal_bytes),
    (GaugeMetricFamily, "unacknowledged_bytes", "Of the agent's output, not kept by ingest yet",
     lambda f: f.unacknowledged_bytes),
    (GaugeMetricFamily, "waiting_lines", "Lines that the agent has not read", lambda f: f.waiting_lines),
    (CounterMetricFamily, "unwritable_lines", "Lines that no agent could read", lambda f: f.unwritable),
    (CounterMetricFamily, "connections", "Connections that stood; all but the first are reconnects",
     lambda f: f.connections),
    (CounterMetricFamily, "failed_connections", "Attempts to connect that failed",
     lambda f: f.failed_connections),
)  # fmt: skip
OF_KEEPER: tuple[tuple[Family, str, str, Callable[[bw.Used], int | float]], ...] = (
    (GaugeMetricFamily, "start_time_seconds", "The keeper's, after 1970", lambda u: u.started_s),
    (GaugeMetricFamily, "resident_memory_bytes", "Of the keeper itself", lambda u: u.rss_bytes),
    (CounterMetricFamily, "cpu_seconds", "Of the keeper itself", lambda u: u.cpu_s),
    (GaugeMetricFamily, "open_fds", "Open files of the keeper", lambda u: u.open_fds),
)


class BridgeFigures(Collector):
    """Runs in the metrics server's thread."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterable[Metric]:
        bridges = self._sessions.bridges()
        info = GaugeMetricFamily(
            "pointsman_bridge_info", "The version that a connected bridge runs", labels=["session", "version"]
        )
        for name, told in bridges.items():
            info.add_metric([name, told.version if told is not None else UNKNOWN], 1)
        yield info
        figures = {name: told for name, told in bridges.items() if told is not None}
        for family, what, about, read in OF_BRIDGE:
            values = {name: read(told) for name, told in figures.items()}
            yield _by_session(family, f"pointsman_bridge_{what}", about, values)
        yield from _carried(figures)
        alive = {name: float(told.keeper is not None) for name, told in figures.items()}
        yield _by_session(GaugeMetricFamily, "pointsman_keeper_up", "1 while the keeper lives", alive)
        for family, what, about, read_used in OF_KEEPER:
            values = {name: read_used(told.keeper) for name, told in figures.items() if told.keeper}
            yield _by_session(family, f"pointsman_keeper_{what}", about, values)


def _by_session(family: Family, name: str, about: str, values: Mapping[str, int | float]) -> Metric:
    metric = family(name, about, labels=["session"])
    for session, value in values.items():
        metric.add_metric([session], value)
    return metric


def _carried(figures: Mapping[str, bw.Figures]) -> Iterable[Metric]:
    """By way: ``out`` of the agent, or ``in``."""
    lines = CounterMetricFamily("pointsman_bridge_lines", "Lines carried", labels=["session", "way"])
    size = CounterMetricFamily("pointsman_bridge_carried_bytes", "Bytes carried", labels=["session", "way"])
    for name, told in figures.items():
        for way, count, length in (
            ("out", told.lines_out, told.bytes_out),
            ("in", told.lines_in, told.bytes_in),
        ):
            lines.add_metric([name, way], count)
            size.add_metric([name, way], length)
    return lines, size
