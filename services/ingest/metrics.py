"""Ingest's figures for Prometheus. Read when it asks, in a thread of its own: so lists are copied first.

Sessions that have ended have no series: a thousand of them would stay for a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ingest.core import Sessions


class SessionFigures(Collector):
    """``connections`` counts the agents and bridges that are connected."""

    def __init__(self, sessions: Sessions, connections: Callable[[], int]) -> None:
        self._sessions = sessions
        self._connections = connections

    def collect(self) -> Iterable[Metric]:
        by_status = GaugeMetricFamily("pointsman_sessions", "Sessions by status", labels=["status"])
        for status, count in self._sessions.statuses().items():
            by_status.add_metric([status], count)
        yield by_status
        status_of = GaugeMetricFamily(
            "pointsman_session_status",
            "1 for the status that a living session has",
            labels=["session", "status"],
        )
        turns = GaugeMetricFamily("pointsman_session_turns", "Turns of a living session", labels=["session"])
        queued = GaugeMetricFamily(
            "pointsman_session_queued_prompts", "Prompts that the agent does not have yet", labels=["session"]
        )
        starts = CounterMetricFamily(
            "pointsman_session_agent_starts",
            "Agent processes that a living session has had: each waking is one, each start after a death",
            labels=["session"],
        )
        for session in self._sessions.living():
            name = session.record.session
            starts.add_metric([name], session.record.process)
            status_of.add_metric([name, session.record.status], 1)
            turns.add_metric([name], session.record.turns)
            queued.add_metric([name], len(session.prompts))
        yield from (status_of, turns, queued, starts)
        yield GaugeMetricFamily(
            "pointsman_ingest_connections", "Agents and bridges connected", value=self._connections()
        )
        yield GaugeMetricFamily(
            "pointsman_ledger_silence_seconds",
            "Since the ledger last said what is left to spend; sessions are held after 15",
            value=self._sessions.allowances.silent_s,
        )
        yield CounterMetricFamily(
            "pointsman_ingest_malformed_frames",
            "Lines of agents that are no frames",
            value=self._sessions.malformed,
        )
        yield CounterMetricFamily(
            "pointsman_ingest_unknown_frames",
            "Frames of a type that we do not know",
            value=sum(self._sessions.unknown.copy().values()),
        )
