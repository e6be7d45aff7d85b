"""What things cost, by session, model, day or project; and past transcripts, read in."""

from __future__ import annotations

import csv
import io
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.errors import PeerError
from bus.requests import new_id
from services.cli import view
from services.cli.line import UsageError, World, connected
from services.cli.out import say, say_json
from services.cli.text import one_line, usd

_AGO = re.compile(r"(\d{1,5})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


async def report(world: World, args: Namespace) -> int:
    """``cost --by``: what was spent in some time."""
    command = m.LedgerQuery(
        by=args.by or "session", since=moment(args.since, world), until=moment(args.until, world)
    )
    async with connected(world) as line:
        answered = await line.ask(t.LEDGER_QUERY, command)
    if world.json:
        say_json(answered)
        return 0
    result = msgspec.convert(answered, m.LedgerQueryResult)
    if args.csv:
        sys.stdout.write(as_csv(result))
        sys.stdout.flush()
    else:
        say(table(result))
        _explain(result)
    return 0


def doubts(rows: Sequence[m.LedgerSession]) -> Iterator[str]:
    """Where the witnesses disagree, and what has no price: that explains a difference as well."""
    unpriced: dict[str, list[str]] = {}
    for row in rows:
        for model in row.unpriced:
            unpriced.setdefault(model, []).append(row.session)
        if row.drift_cause and not any(model in row.drift_cause for model in row.unpriced):
            than = "more" if row.drift_usd > 0 else "less"
            said = f"{usd(abs(row.drift_usd))} {than} than its transcripts say"
            yield f"{one_line(row.session)}: {said}: {one_line(row.drift_cause, 200)}."
    for model, sessions in unpriced.items():
        yield f"{one_line(', '.join(sessions), 200)}: no price is known for {one_line(model, 200)}."


def add_arguments(cost: ArgumentParser) -> None:
    """Of the verb ``cost``, beside the session's name."""
    cost.add_argument("paths", metavar="PATH", nargs="*", help="after `import`: transcripts, or directories")
    cost.add_argument("--by", choices=("session", "model", "day", "project"), help="sums by these")
    cost.add_argument("--since", metavar="TIME", help="2026-11-21, 2026-11-21T18:00, or 7d ago (h, d, w)")
    cost.add_argument("--until", metavar="TIME", help="before this time")
    cost.add_argument("--rebuild", action="store_true", help="after `check`: make sums that differ again")
    cost.add_argument("--csv", action="store_true", help="comma-separated, for a spreadsheet")


def moment(text: str | None, world: World) -> datetime | None:
    """``2026-11-21``, ``2026-11-21T18:00``, or ``7d`` ago; without a zone it is the local one."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text)
    if ago:
        return world.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        day = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{one_line(text)!r} is no time: say 2026-11-21, 2026-11-21T18:00 or 7d") from None
    return (day if day.tzinfo else datetime.combine(day.date(), time(day.hour, day.minute))).astimezone()


def table(result: m.LedgerQueryResult) -> Table:
    name = result.by.upper()
    made = view.table(name, "SPENT", "TURNS", "IN", "OUT", "READ", "WRITTEN", wide=name)
    for row in result.rows:
        made.add_row(
            Text(one_line(row.key)),
            price(row.spent_usd, row.unpriced),
            f"{row.turns:,}",
            f"{row.tokens.input:,}",
            f"{row.tokens.output:,}",
            f"{row.tokens.cache_read:,}",
            f"{row.tokens.cache_write:,}",
        )
    made.add_row(Text("all", style="bold"), usd(result.total_usd))
    return made


def price(spent: float, unpriced: bool) -> str:
    """What has no price is not free."""
    if not unpriced:
        return usd(spent)
    return f"{usd(spent)} ?" if spent else "unpriced"


def _explain(result: m.LedgerQueryResult) -> None:
    if any(row.unpriced for row in result.rows):
        say("?, unpriced: the price table knows no price for these: what the agent said stands, or nothing")


def as_csv(result: m.LedgerQueryResult) -> str:
    """One line per row; money with all its digits."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    tokens = m.Tokens.__struct_fields__
    writer.writerow([result.by, "uid", "spent_usd", "unpriced", "turns", *tokens])
    for row in result.rows:
        uid = "" if row.uid is msgspec.UNSET else row.uid
        # A formula in a cell would be run by whoever opens the file.
        key = f"'{row.key}" if row.key[:1] in "=+-@\t" else row.key
        counts = (getattr(row.tokens, name) for name in tokens)
        writer.writerow([key, uid, f"{row.spent_usd:.12f}", int(row.unpriced), row.turns, *counts])
    return made.getvalue()


def absolute(named: Sequence[str]) -> list[str]:
    """The ledger stands in another directory."""
    paths = [str(Path(path).expanduser().absolute()) for path in named]
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise UsageError(f"there is no {one_line(missing[0])}")
    return paths


async def check(world: World, args: Namespace) -> int:
    """``cost check``: compare all sums with their postings; ``--rebuild``: make them again if they differ."""
    command = m.LedgerCheck(id=new_id(), rebuild=args.rebuild)
    answered = await _followed(world, t.LEDGER_CHECK, command, "comparing")
    result = msgspec.convert(answered, m.CheckResult)
    if world.json:
        say_json(answered)
        return 0 if result.ok else 1
    if result.ok:
        say(f"All sums agree with their {result.postings:,} postings.")
        return 0
    for table, count in result.differing.items():
        say(f"{table}: {count:,} rows differ" if count else f"{table}: agrees")
    if result.rebuilding:
        say("The ledger starts anew and makes them again: see `pointsman health`, then check once more.")
    else:
        say("`pointsman cost check --rebuild` makes them again from the postings, which are the truth.")
    return 1


async def read_in(world: World, args: Namespace) -> int:
    """``cost import PATH…``: read past transcripts."""
    command = m.LedgerImport(id=new_id(), paths=absolute(args.paths))
    answered = await _followed(world, t.LEDGER_IMPORT, command, "reading")
    if world.json:
        say_json(answered)
        return 0
    result = msgspec.convert(answered, m.ImportResult)
    say(f"{result.files:,} files, {result.lines:,} lines: {result.added:,} calls of models added.")
    say(f"{result.duplicates:,} lines told of calls that were known.")
    if result.broken:
        say(f"{result.broken:,} lines could not be read: broken, half written, or too large.")
    if result.unreadable:
        say(f"{result.unreadable:,} files could not be read.")
    return 0


async def _followed(world: World, row: t.Topic, command: m.Command, doing: str) -> Any:
    """Ask the ledger for something that takes long, with a bar of how far it is. Returns the answer."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=Console(file=sys.stderr), transient=True, disable=world.json or not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        task = bar.add_task(doing, total=None)

        def on_event(message: Received) -> None:
            try:
                event = codec.decode(t.LEDGER_EVENTS, message.payload, m.LedgerEvent)
            except PeerError:
                return
            if event.id == command.id and isinstance(event.done, int) and isinstance(event.of, int):
                bar.update(task, completed=event.done, total=event.of)

        async with connected(world) as line:
            with line.bus.divert(t.LEDGER_EVENTS, on_event):
                return await line.ask_patiently(row, command)
