"""How things look in a terminal: tables that fit its width, and one line per event. Pure.

Whatever comes from an agent goes through `text.clean` or `text.one_line`, and into `Text`, which knows no
markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from bus import messages as m
from services.cli.text import ago, clean, named, one_line, short, size, span, usd

STATUS_STYLE = {
    "working": "cyan", "waiting_approval": "bold yellow", "waiting_input": "green", "ready": "green",
    "starting": "cyan", "disconnected": "red", "failed": "bold red", "ended": "dim", "hibernated": "dim",
    "online": "green", "offline": "bold red", "stale": "yellow", "healthy": "green", "degraded": "yellow",
    "critical": "bold red", "ok": "green", "warn": "yellow", "missing": "bold red",
}  # fmt: skip
LEVEL_STYLE = {"low": "green", "medium": "yellow", "high": "red", "critical": "bold red"}
PATH_WIDTH = 28  # characters
SHORT_ID = 10  # characters of an approval's id that are shown; any unique beginning is taken
GONE = ("ended", "failed")


def table(*columns: str, wide: str = "") -> Table:
    """A plain table; the column ``wide`` gives way when the terminal is narrow.

    ``expand``: without it rich ignores ``ratio``, and a long text of an agent would push out the columns that
    say what is asked and how dangerous it is.
    """
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), expand=bool(wide))
    for name in columns:
        flexible = name == wide
        made.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if flexible else None, min_width=4)
    return made


def styled(word: str, styles: Mapping[str, str] = STATUS_STYLE) -> Text:
    return Text(one_line(word).replace("_", " "), style=styles.get(word, ""))


def sessions(states: Sequence[m.SessionState], costs: Mapping[str, float], now: datetime) -> Table:
    made = table("SESSION", "STATUS", "FOR", "TURNS", "COST", "DIRECTORY", "DOING", wide="DOING")
    for state in sorted(states, key=lambda s: (s.status in GONE, s.session)):
        made.add_row(
            Text(one_line(state.session), style="bold" if state.status not in GONE else "dim"),
            styled(state.status),
            ago(state.status_since, now),
            str(state.turns),
            usd(costs.get(state.uid)),
            Text(_short_path(one_line(state.cwd))),
            Text(doing(state)),
        )
    return made


def doing(state: m.SessionState) -> str:
    """What a session is at, in a few words."""
    if state.error:
        return one_line(state.error, 200)
    if state.blocked is not None:
        return f"blocked by {one_line(state.blocked.by)}"
    if state.current_tool is not None:
        return named(state.current_tool.tool, state.current_tool.summary, 200)
    if state.queued_prompts and state.status not in GONE:
        return f"{state.queued_prompts} prompt{'s' if state.queued_prompts > 1 else ''} queued"
    return one_line(state.last_message or "", 200)


def approvals(requests: Sequence[m.ApprovalRequest], now: datetime) -> Table:
    made = table("ID", "SESSION", "ASKS FOR", "LEVEL", "EXPIRES", "WHAT", wide="WHAT")
    for request in requests:
        made.add_row(
            Text(request.id[:SHORT_ID], style="bold"),
            Text(one_line(request.session)),
            Text(one_line(request.tool if request.kind == "tool" else request.kind, 24)),
            styled(request.danger.level, LEVEL_STYLE),
            "never"
            if request.expires_at is None
            else f"in {span((request.expires_at - now).total_seconds())}",
            Text(_takes(request) + one_line(request.summary or request.description, 300)),
        )
    return made


def _takes(request: m.ApprovalRequest) -> str:
    return f"({request.required} approvers) " if request.required > 1 else ""


def costs(total: m.LedgerTotal | None, rows: Sequence[m.LedgerSession]) -> Table:
    made = table(
        "SESSION", "SPENT", "BUDGET", "LEFT", "LEVEL", "TURNS", "IN", "OUT", "CACHED", "MODELS", wide="MODELS"
    )
    every: list[tuple[str, m.LedgerTotal]] = [(row.session, row) for row in rows]
    for name, row in [*every, *([("all", total)] if total else [])]:
        made.add_row(
            Text(one_line(name), style="bold" if row is total else ""),
            usd(row.spent_usd)
            + ("*" if row.notional else "")
            + (f" +{usd(row.running_usd)}" if row.running_usd and row is not total else ""),
            usd(row.budget_usd),
            usd(row.remaining_usd),
            one_line(row.level),
            short(row.turns),
            short(row.tokens.input),
            short(row.tokens.output),
            short(row.tokens.cache_read),
            Text(one_line(", ".join(sorted(row.by_model)))),
        )
    return made


def services(found: Mapping[str, Mapping[str, Any]]) -> Table:
    made = table("SERVICE", "STATUS", "UP", "MEMORY", "CPU", "LAG", "QUEUE", "ERRORS")
    for name, health in found.items():
        if "pid" not in health:
            made.add_row(Text(one_line(name)), styled(str(health["status"])), *["–"] * 6)
            continue
        made.add_row(
            Text(one_line(name)),
            styled(str(health["status"])),
            span(float(health["uptime_s"])),
            size(float(health["rss_bytes"])),
            f"{health['cpu_percent']} %",
            f"{health['loop_lag_ms']} ms",
            str(health["queue_depth"]),
            str(health["errors_total"]),
        )
    return made


def checks(found: Iterable[tuple[str, str, str, str]]) -> Table:
    """Doctor's findings: name, status, what was found, how to mend it."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for name, status, what, mend in found:
        text = Text(clean(what))
        if mend:
            text.append(f"\n→ {clean(mend)}", style="yellow" if status == "warn" else "bold")
        made.add_row(Text(name), styled(status), text)
    return made


def event(document: Mapping[str, Any], *, name: bool = True) -> Text | None:
    """One event of a session as a line or a few; None for what a reader need not see."""
    kind = document.get("type")
    text = Text()
    text.append(str(document.get("at", ""))[11:19], style="dim")
    if name:
        text.append(f" {one_line(str(document.get('session', '')))}", style="bold blue")
    body = _EVENTS.get(str(kind), _unknown)(document)
    if body is None:
        return None
    return text.append(" ").append_text(body)


def _prompt(document: Mapping[str, Any]) -> Text | None:
    phase = str(document.get("phase", ""))
    if phase == "queued":
        return None  # delivered (or refused) follows
    mark = "❯ " if phase == "delivered" else f"❯ ({one_line(phase)}) "
    return Text(mark + clean(str(document.get("text", ""))), style="bold")


def _message(document: Mapping[str, Any]) -> Text | None:
    said = clean(str(document.get("text", ""))).strip()
    if not said or document.get("role") == "user":
        return None  # what the user said stands in the prompt, tools' results in their events
    return Text(said)


def _tool(document: Mapping[str, Any]) -> Text | None:
    phase = document.get("phase")
    what = named(str(document.get("tool", "")), str(document.get("summary", "")), 300)
    if phase == "started":
        return Text(f"● {what}", style="cyan")
    if phase != "finished":
        return None
    output = one_line(str(document.get("output", "")), 200)
    failed = document.get("is_error")
    return Text(f"  ⎿ {'failed: ' if failed else ''}{output or 'done'}", style="red" if failed else "dim")


def _question(document: Mapping[str, Any]) -> Text:
    options = " | ".join(one_line(str(option)) for option in document.get("options", []))
    text = Text(f"? {clean(str(document.get('text', '')))}", style="bold yellow")
    return text.append(f"  [{options}]" if options else "", style="yellow")


def _result(document: Mapping[str, Any]) -> Text:
    cost = document.get("cost_usd")
    price = usd(float(cost)) if isinstance(cost, int | float) else "–"
    lasted = span(float(document.get("duration_ms") or 0) / 1000)
    if document.get("is_error"):
        return Text(
            f"✗ {one_line(str(document.get('subtype', 'error')))} after {lasted}, {price}", style="red"
        )
    return Text(f"✓ {lasted}, {price}", style="green")


def _status(document: Mapping[str, Any]) -> Text:
    word = str(document.get("to", ""))
    reason = one_line(str(document.get("reason") or ""), 200)
    return styled(word).append(f" ({reason})" if reason else "", style="dim")


def _limit(document: Mapping[str, Any]) -> Text:
    return Text(
        f"limit: {one_line(str(document.get('window', '')))} {one_line(str(document.get('status', '')))}",
        style="yellow",
    )


def _error(document: Mapping[str, Any]) -> Text:
    return Text(f"error: {one_line(str(document.get('message', '')), 500)}", style="bold red")


def _ended(document: Mapping[str, Any]) -> Text:
    code = document.get("exit_code")
    return Text(f"ended: {one_line(str(document.get('reason', '')), 300)} (exit code {code})", style="dim")


def _nothing(_document: Mapping[str, Any]) -> None:
    return None


def _unknown(document: Mapping[str, Any]) -> Text:
    return Text(one_line(str(document.get("type", "?"))), style="dim")


_EVENTS: Mapping[str, Any] = {
    "prompt": _prompt, "message": _message, "tool": _tool, "question": _question, "result": _result,
    "status": _status, "limit": _limit, "error": _error, "ended": _ended, "delta": _nothing, "hook": _nothing,
}  # fmt: skip


def _short_path(path: str) -> str:
    """The path, or as many of its last parts as fit."""
    if len(path) <= PATH_WIDTH:
        return path
    end = path[1 - PATH_WIDTH :]
    return "…" + (end[end.index("/") :] if "/" in end else end)
