"""The figures of a process for Prometheus. Names follow https://prometheus.io/docs/practices/naming/:
``pointsman_<what>_<unit>``; what every process has keeps the standard ``process_…`` names.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bus.base import BusBase
from bus.errors import ERROR_CODES
from bus.topics import Topic
from services import version
from services._process.config_keys import Config, is_loopback
from services._process.errors import WorldError
from services._process.home import Home
from services._process.ports import metrics_port_for

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# A commit takes half a millisecond to ten.
HANDLING_S = (
    0.0002,
    0.0005,
    0.001,
    0.002,
    0.005,
    0.01,
    0.025,
    0.1,
    0.5,
    2.0,
)
ACCEPT_PAUSE_S = 0.1
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?\Z", re.IGNORECASE)
ATTEMPTS = 3  # claims of a port, should another program take it between the claim and the bind


class Figures:
    """A process's registry, and the figures that every service has."""

    def __init__(self, service: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call,unused-ignore]  # a second series for each, which nobody reads
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = Info("pointsman_build", "The version that runs", registry=self.registry)
        build.info({"version": version(), "service": service})
        self.errors = Counter(
            "pointsman_errors", "Messages that could not be acted on", ["code"], registry=self.registry
        )
        for code in sorted(ERROR_CODES):  # the first one of a new series would show in no rate
            self.errors.labels(code)
        self.loop_lag = Gauge(
            "pointsman_loop_lag_seconds",
            "The longest that a due task waited for the event loop in the last ten seconds",
            registry=self.registry,
        )

    def errors_total(self) -> int:
        """The sum over all codes."""
        samples = (sample for metric in self.errors.collect() for sample in metric.samples)
        return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


class StationFigures:
    """What an owner's loop does with the messages that it reads, by row of the topics table."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._handling = Histogram(
            "pointsman_message_handling_seconds",
            "From a message's being read to its being dealt with, commit included",
            ["row"],
            buckets=HANDLING_S,
            registry=registry,
        )
        self._undecodable = Counter(
            "pointsman_decode_errors", "Messages that do not fit their row", ["row"], registry=registry
        )
        self._waiting = Gauge(
            "pointsman_facts_waiting", "Facts that no owner has acknowledged yet", registry=registry
        )
        self._by_row: dict[Topic, Histogram] = {}  # looking a label up costs more than observing

    def handled(self, row: Topic, seconds: float) -> None:
        histogram = self._by_row.get(row)
        if histogram is None:
            histogram = self._by_row[row] = self._handling.labels(row.pattern)
        histogram.observe(seconds)

    def undecodable(self, row: Topic) -> None:
        self._undecodable.labels(row.pattern).inc()

    def waiting(self, facts: int) -> None:
        self._waiting.set(facts)


class BusFigures(Collector):
    """Reads the connection's counters when Prometheus asks, so that counting costs the connection nothing.

    Runs in the metrics server's thread: it copies before it looks, because the connection goes on counting.
    """

    def __init__(self, bus: BusBase) -> None:
        self._bus = bus

    def collect(self) -> Iterable[Metric]:
        counters, dropped = self._bus.counters, self._bus.dropped.copy()
        connected = GaugeMetricFamily("pointsman_bus_connected", "1 while the connection to the bus stands")
        connected.add_metric([], float(self._bus.connected))
        yield connected
        waiting = GaugeMetricFamily("pointsman_bus_queued_messages", "Messages that wait, in and out")
        waiting.add_metric([], self._bus.queued)
        yield waiting
        messages = CounterMetricFamily(
            "pointsman_bus_messages",
            "Messages by direction and row of the topics table",
            labels=["way", "row"],
        )
        for way, counts in (("in", counters.received.copy()), ("out", counters.published.copy())):
            for row, count in counts.items():
                messages.add_metric([way, row.pattern], count)
        yield messages
        lost = CounterMetricFamily(
            "pointsman_bus_dropped_messages", "Messages given up by the queue's policy", labels=["policy"]
        )
        for policy, count in dropped.items():
            lost.add_metric([policy], count)
        yield lost
        for name, value, about in (
            ("connections", counters.connections, "Connections that stood; all but the first are reconnects"),
            ("failed_connections", counters.failed_attempts, "Attempts to connect that failed"),
            ("unknown_topics", counters.unknown_topics, "Messages on topics that belong to no row"),
            (
                "corrected_snapshots",
                counters.corrected,
                "Foreign or old snapshots of ours that were put right",
            ),
        ):
            yield CounterMetricFamily(f"pointsman_bus_{name}", about, value=value)


def start_metrics_server(config: Config, home: Home, service: str, registry: CollectorRegistry) -> int:
    """Serve /metrics from a thread of its own, and return the port.

    Raises `PortTakenError` or `WorldError`.
    """
    why = ""
    for _ in range(ATTEMPTS):
        port = metrics_port_for(config, home, service)
        try:
            server, _ = start_http_server(port, addr=config.metrics.host, registry=registry)
        except OSError as error:
            why = f"{port}: {error.strerror}"
        else:
            _be_patient(server)
            if is_loopback(config.metrics.host):
                _to_programs_alone(server)
            home.update_metrics_targets(config.node.name, config.metrics.host)
            return port
    raise WorldError(f"the metrics of {service} cannot be served at {config.metrics.host}:{why}")


def _to_programs_alone(server: WSGIServer) -> None:
    """No web page of a browser on this machine reads the figures, by a rebound DNS name either."""
    serve = server.get_app()
    assert serve is not None  # noqa: S101  # the library has just set it

    def app(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if "HTTP_ORIGIN" in environ or not _LOOPBACK.match(environ.get("HTTP_HOST", "localhost")):
            start("403 Forbidden", [])
            return [b"for programs of this machine\n"]
        return serve(environ, start)

    server.set_app(app)


def _be_patient(server: WSGIServer) -> None:
    """When no file can be opened, whoever comes waits in the kernel: look again after a pause."""
    accept = server.get_request

    def get_request() -> tuple[Any, Any]:
        try:
            return accept()
        except OSError:
            time.sleep(ACCEPT_PAUSE_S)  # in the metrics' own thread
            raise

    server.get_request = get_request  # type: ignore[method-assign]  # the library makes the server itself
