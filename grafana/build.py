"""The dashboards: one table of panels each, written as Grafana's JSON with its own library.

`python -m grafana.build` writes dashboards/*.json, which are committed, so that nobody needs the library to
use them; tests/deploy holds the two to each other, every metric to one that a service really serves, and
every query to a real Prometheus beside a stack under load.

A panel is small and says one thing: title, what it means, unit, thresholds where a value can be bad, and one
to four queries. ``$node`` and ``$session`` are the dashboards' variables.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueTextMode,
    GraphTresholdsStyleMode,
    StackingMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

HERE = Path(__file__).parent
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
NODE = 'node=~"$node"'
COLUMNS = 24  # of Grafana's grid
MAKERS: dict[str, Any] = {
    "stat": stat.Panel,
    "bars": bargauge.Panel,
    "time": timeseries.Panel,
    "table": table.Panel,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """``queries``: (expression, legend). ``bad``: (value, colour) from which on it is so. ``named``: it shows
    the legend, not the value, which is always 1. ``columns``: of a table, its labels in this order.
    ``opens_session``: its legend is a session's name.
    """

    kind: str
    title: str
    about: str
    unit: str
    queries: Sequence[tuple[str, str]]
    bad: Sequence[tuple[float, str]] = ()
    width: int = 6
    height: int = 6
    stacked: bool = False
    named: bool = False
    columns: Sequence[str] = ()
    opens_session: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    uid: str
    title: str
    about: str
    panels: Sequence[Panel]
    by_session: bool = False


def _q(expression: str, legend: str = "") -> tuple[str, str]:
    return expression.replace("{}", "{" + NODE + "}").replace("{,", "{" + NODE + ","), legend


FLEET = Board(
    "pointsman-fleet",
    "Pointsman: fleet",
    "Is everything running, what are the sessions doing, and who eats the memory?",
    (
        Panel("stat", "Services down", "Services that do not beat; no data: not even the watchdog does.", "none",
              [_q("sum(1 - pointsman_service_online{})")], [(0, "green"), (1, "red")], 4, 4),
        Panel("stat", "Sessions alive", "Living sessions on the chosen nodes.", "none",
              [_q("count(pointsman_session_status{}) or vector(0)")], (), 4, 4),
        Panel("stat", "Waiting for a yes", "Approvals that wait for a person.", "none",
              [_q("sum(pointsman_approvals_pending{})")], [(0, "green"), (1, "orange"), (10, "red")], 4, 4),
        Panel("stat", "Spent today", "Since midnight in the node's time zone.", "currencyUSD",
              [_q('sum(pointsman_spent_dollars{,period="day"})')], (), 4, 4),
        Panel("stat", "Memory used", "Of the budget, all agents and services together.", "percentunit",
              [_q("max(pointsman_memory_used_bytes{} / pointsman_memory_budget_bytes{})")],
              [(0, "green"), (0.618, "orange"), (0.8, "red")], 4, 4),
        Panel("stat", "Breaker", "Whether new work is let in.", "none",
              [_q("pointsman_breaker_state{} == 1", "{{state}}")], (), 4, 4, named=True),
        Panel("time", "Sessions by status", "What the sessions are doing.", "none",
              [_q("sum by (status) (pointsman_sessions{}) > 0", "{{status}}")], (), 12, 8, stacked=True),
        Panel("time", "Memory by session", "Proportional set size of each agent with all its children.", "bytes",
              [_q("pointsman_session_memory_bytes{}", "{{session}}")], (), 12, 8, stacked=True, opens_session=True),
        Panel("time", "Memory of the services", "Proportional set size of each service with its children "
              "(mosquitto counts for the broker); resident memory of supervisord and its listener.", "bytes",
              [_q("pointsman_service_memory_bytes{}", "{{name}}"),
               _q("pointsman_supervisord_process_resident_memory_bytes{}", "supervisord"),
               _q("pointsman_supervision_process_resident_memory_bytes{}", "supervision")], (), 8, 7),
        Panel("time", "Processor", "Share of one processor that each service uses.", "percentunit",
              [_q('rate(process_cpu_seconds_total{,job="pointsman"}[1m])', "{{service}}")], (), 8, 7),
        Panel("time", "Open files", "File descriptors of each service.", "none",
              [_q('process_open_fds{,job="pointsman"}', "{{service}}")], (), 8, 7),
        Panel("time", "Evictions, restarts and deaths", "What the watchdog had to do, and what died by itself, "
              "in the hour before each point.", "none",
              [_q("increase(pointsman_evictions_total{}[1h])", "session {{how}}"),
               _q("increase(pointsman_service_restarts_total{}[1h])", "{{name}} hung"),
               _q("increase(pointsman_service_deaths_total{}[1h])", "{{name}} died")], (), 12, 6),
        Panel("stat", "Disk free", "On the disk of the home; the breaker opens below 100 MiB.", "bytes",
              [_q("min(pointsman_disk_free_bytes{})")], [(0, "red"), (1 << 30, "green")], 6, 6),
        Panel("table", "Versions", "What runs where.", "none",
              [_q("pointsman_build_info{}", "")], (), 6, 6, columns=("node", "service", "version")),
    ),
)  # fmt: skip

SESSION = Board(
    "pointsman-session",
    "Pointsman: one session",
    "What one session is doing, what it costs and what it holds.",
    (
        Panel("stat", "Status", "What the session is doing now.", "none",
              [_q('pointsman_session_status{,session="$session"}', "{{status}}")], (), 6, 4, named=True),
        Panel("stat", "Spent", "By this session, its running turn included.", "currencyUSD",
              [_q('pointsman_session_spent_dollars{,session="$session"}')], (), 6, 4),
        Panel("stat", "Budget used", "Of the session's own budget.", "percentunit",
              [_q('pointsman_session_budget_used_ratio{,session="$session"}')],
              [(0, "green"), (0.618, "orange"), (0.854, "red")], 6, 4),
        Panel("stat", "Turns", "Since the session was opened.", "none",
              [_q('pointsman_session_turns{,session="$session"}')], (), 6, 4),
        Panel("time", "Memory", "Of the agent with all its children.", "bytes",
              [_q('pointsman_session_memory_bytes{,session="$session"}', "memory")], (), 12, 8),
        Panel("time", "Cost", "What the session has spent, over time.", "currencyUSD",
              [_q('pointsman_session_spent_dollars{,session="$session"}', "spent")], (), 12, 8),
        Panel("time", "Prompts that wait", "Prompts that the agent does not have yet.", "none",
              [_q('pointsman_session_queued_prompts{,session="$session"}', "prompts")], (), 12, 6),
        Panel("time", "Processes", "The agent and its children, its bridge and its keeper.", "none",
              [_q('pointsman_session_processes{,session="$session"}', "processes")], (), 12, 6),
        Panel("time", "Carried", "What the bridge carries, out of the agent and into it.", "Bps",
              [_q('rate(pointsman_bridge_carried_bytes_total{,session="$session"}[1m])', "{{way}}")], (), 8, 6),
        Panel("time", "Agent's output", "On the disk, and of it what Pointsman has not kept yet.", "bytes",
              [_q('pointsman_bridge_journal_bytes{,session="$session"}', "on the disk"),
               _q('pointsman_bridge_unacknowledged_bytes{,session="$session"}', "not kept yet")], (), 8, 6),
        Panel("time", "Bridge and keeper", "Resident memory of the two programs around the agent.", "bytes",
              [_q('pointsman_bridge_resident_memory_bytes{,session="$session"}', "bridge"),
               _q('pointsman_keeper_resident_memory_bytes{,session="$session"}', "keeper")], (), 8, 6),
    ),
    by_session=True,
)  # fmt: skip

COSTS = Board(
    "pointsman-costs",
    "Pointsman: costs",
    "What is spent, on what, and how far the budgets reach.",
    (
        Panel("stat", "Today", "Since midnight.", "currencyUSD",
              [_q('sum(pointsman_spent_dollars{,period="day"})')], (), 6, 4),
        Panel("stat", "This month", "Since the first.", "currencyUSD",
              [_q('sum(pointsman_spent_dollars{,period="month"})')], (), 6, 4),
        Panel("stat", "At the present rate", "Dollars an hour, over the last quarter of an hour.", "currencyUSD",
              [_q("sum(pointsman_burn_dollars_per_hour{})")], (), 6, 4),
        Panel("stat", "Held by a budget", "Sessions that an exhausted budget has stopped.", "none",
              [_q("sum(pointsman_sessions_held{})")], [(0, "green"), (1, "red")], 6, 4),
        Panel("time", "Cost by model", "Dollars in the hour before each point.", "currencyUSD",
              [_q("sum by (model) (increase(pointsman_cost_dollars_total{}[1h]))", "{{model}}")], (), 12, 8,
              stacked=True),
        Panel("time", "Tokens by kind", "Tokens a second; what is read from the cache is cheap.", "short",
              [_q("sum by (kind) (rate(pointsman_tokens_total{}[5m]))", "{{kind}}")], (), 12, 8, stacked=True),
        Panel("bars", "Budgets of the node", "Used share of each that is set.", "percentunit",
              [_q("pointsman_budget_used_ratio{}", "{{period}}")],
              [(0, "green"), (0.618, "orange"), (0.854, "red")], 8, 8),
        Panel("bars", "Dearest sessions", "The ten living sessions that have spent most.", "currencyUSD",
              [_q("topk(10, pointsman_session_spent_dollars{})", "{{session}}")], (), 8, 8,
              opens_session=True),
        Panel("time", "Sessions by level", "How far the sessions' own budgets are used.", "none",
              [_q("sum by (level) (pointsman_budget_sessions{})", "{{level}}")], (), 8, 8, stacked=True),
        Panel("time", "What did not add up", "Late reports, totals that began anew, and cost that no model's "
              "own figure explains: near nothing is right.", "none",
              [_q("increase(pointsman_cost_late_reports_total{}[1h])", "late reports"),
               _q("increase(pointsman_cost_resets_total{}[1h])", "totals that began anew"),
               _q("increase(pointsman_cost_unattributed_dollars_total{}[1h])", "unattributed dollars")], (), 24, 6),
    ),
)  # fmt: skip

HEALTH = Board(
    "pointsman-approvals-and-bus",
    "Pointsman: approvals and the bus",
    "How decisions are made and how quickly, and whether the messages flow.",
    (
        Panel("stat", "Pending", "Approvals that wait now.", "none",
              [_q("sum(pointsman_approvals_pending{})")], [(0, "green"), (1, "orange")], 6, 4),
        Panel("stat", "Ran without leave", "Tools that ran although denied, expired or open: must be 0.", "none",
              [_q("sum(pointsman_unapproved_tools_total{})")], [(0, "green"), (1, "red")], 6, 4),
        Panel("stat", "Facts that wait", "Not yet acknowledged by their owner.", "none",
              [_q("sum(pointsman_facts_waiting{})")], [(0, "green"), (100, "orange")], 6, 4),
        Panel("stat", "Cut off", "Services that run without a connection to the broker.", "none",
              [_q("sum(1 - pointsman_bus_connected{})")], [(0, "green"), (1, "red")], 6, 4),
        Panel("time", "Decisions", "By what was decided and the way it came, in five minutes.", "none",
              [_q("sum by (decision, via) (increase(pointsman_approvals_total{}[5m])) > 0", "{{decision}} via {{via}}")],
              (), 12, 8, stacked=True),
        Panel("time", "From question to decision", "Half are quicker than the lower line, 95 % than the upper.", "s",
              [_q("histogram_quantile(0.5, sum by (le) (rate(pointsman_approval_latency_seconds_bucket{}[5m])))", "p50"),
               _q("histogram_quantile(0.95, sum by (le) (rate(pointsman_approval_latency_seconds_bucket{}[5m])))", "p95")],
              (), 12, 8),
        Panel("time", "Messages", "A second, into and out of each service.", "cps",
              [_q("sum by (service, way) (rate(pointsman_bus_messages_total{}[1m]))", "{{service}} {{way}}")],
              (), 12, 8),
        Panel("time", "Handling", "99 % of a service's messages are dealt with so quickly.", "s",
              [_q("histogram_quantile(0.99, sum by (service, le) "
                  "(rate(pointsman_message_handling_seconds_bucket{}[5m])))", "{{service}}")], (), 12, 8),
        Panel("time", "Event loop lag", "The longest that a due task waited.", "s",
              [_q("pointsman_loop_lag_seconds{}", "{{service}}")], [(0, "green"), (1, "red")], 8, 7),
        Panel("time", "Queues", "Messages that wait in each service.", "none",
              [_q("pointsman_bus_queued_messages{}", "{{service}}")], (), 8, 7),
        Panel("time", "Trouble", "Reconnects, refused and dropped messages in five minutes.", "none",
              [_q("sum(increase(pointsman_bus_connections_total{}[5m]))", "connections"),
               _q("sum(increase(pointsman_errors_total{}[5m]))", "errors"),
               _q("sum(increase(pointsman_decode_errors_total{}[5m])) or vector(0)", "undecodable"),
               _q("sum(increase(pointsman_bus_dropped_messages_total{}[5m])) or vector(0)", "dropped")], (), 8, 7),
        Panel("time", "Bridges behind", "Output of each agent that is not kept yet: near nothing is right.", "bytes",
              [_q("pointsman_bridge_unacknowledged_bytes{}", "{{session}}")],
              [(0, "green"), (16 << 20, "red")], 8, 7, opens_session=True),
        Panel("bars", "Bridges by version", "A bridge lives as long as its agent, also over an update.", "none",
              [_q("count by (version) (pointsman_bridge_info{})", "{{version}}")], (), 8, 7),
        Panel("time", "Supervision", "Between supervisord and the watchdog, in the hour before each point: what "
              "was not answered in time, refused, or went wrong, and lines of logs that were lost.", "none",
              [_q("increase(pointsman_supervision_unanswered_total{}[1h])", "unanswered"),
               _q("increase(pointsman_supervision_refused_total{}[1h])", "refused"),
               _q("increase(pointsman_supervision_faults_total{}[1h])", "went wrong"),
               _q("increase(pointsman_supervision_lines_lost_total{}[1h])", "lines lost")], (), 8, 7),
    ),
)  # fmt: skip

BOARDS = (FLEET, SESSION, COSTS, HEALTH)
SESSION_URL = (
    "/d/pointsman-session?var-session=${__field.labels.session}&${datasource:queryparam}&${node:queryparam}"
    "&${__url_time_range}"
)


def built(board: Board) -> str:
    """The dashboard as Grafana's JSON text."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.about)
        .tags(["pointsman"])
        .refresh("15s")
        .time("now-3h", "now")
        .editable()
        .with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
        .with_variable(_variable("node", "Node", "label_values(pointsman_build_info, node)", several=True))
    )
    if board.by_session:
        query = f"label_values(pointsman_session_status{{{NODE}}}, session)"
        made = made.with_variable(_variable("session", "Session", query))
    made = made.links(
        [
            dashboard.DashboardLink("Pointsman")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["pointsman"])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        ]
    )
    x = y = row_height = 0
    for panel in board.panels:
        if x + panel.width > COLUMNS:
            x, y, row_height = 0, y + row_height, 0
        made = made.with_panel(_panel(panel).grid_pos(GridPos(h=panel.height, w=panel.width, x=x, y=y)))
        x, row_height = x + panel.width, max(row_height, panel.height)
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _variable(name: str, label: str, query: str, *, several: bool = False) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    return made.multi(True).include_all(True).all_value(".*") if several else made


def _panel(panel: Panel) -> Any:
    made = (
        MAKERS[panel.kind]().title(panel.title).description(panel.about).datasource(SOURCE).unit(panel.unit)
    )
    for place, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + place))
        query = query.legend_format(legend) if legend else query
        query = query.format(PromQueryFormat.TABLE) if panel.columns else query
        made = made.with_target(query if panel.kind == "time" else query.instant())
    # What has no limit is blue: left out, Grafana takes 80 for one, and $81 are red.
    limits = panel.bad or (() if panel.kind == "time" else ((0, "blue"),))
    if limits:
        steps = [
            Threshold(None if place == 0 else value, color) for place, (value, color) in enumerate(limits)
        ]
        made = made.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
        if panel.kind == "time":
            style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
            made = made.thresholds_style(style)
    if panel.named:
        made = made.text_mode(BigValueTextMode.NAME)
    if panel.columns:
        order = {name: place for place, name in enumerate(panel.columns)}
        shown = {"include": {"names": list(panel.columns)}}
        made = made.with_transformation(DataTransformerConfig("filterFieldsByName", options=shown))
        made = made.with_transformation(DataTransformerConfig("organize", options={"indexByName": order}))
    if panel.opens_session:
        made = made.data_links([dashboard.DashboardLink("Open the session").url(SESSION_URL)])
    if panel.stacked:
        made = made.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(20)
    if made.build().options is None:  # which the library writes as null; Grafana's types want an object
        made.build().options = {}
    return made


def main() -> int:
    for board in BOARDS:
        (HERE / "dashboards" / f"{board.uid.removeprefix('pointsman-')}.json").write_text(built(board))
    return 0


if __name__ == "__main__":
    sys.exit(main())
