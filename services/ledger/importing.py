"""Costs from before Pointsman, out of transcripts. Pure; `importer` reads the files.

Theory of operation. A run goes through its files in order, in batches. A batch and the place that it leads to
are kept in one transaction, so a run goes on where it was after any crash, and its answer is given then. A
call that is known is not added again, whoever told of it first: a second run adds nothing. What a session of
ours has spoken (`Witness.owner`) is counted by its agent, and left alone.

Each conversation has an account of its own, under the agent's id of it: that is what ``by: session`` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Keep, Publish, ReplyTo
from services.ledger.estimates import message_of, posting_of
from services.ledger.evidence import Followed, Message
from services.ledger.model import IMPORT, KeepSession, Posting
from services.ledger.prices import Prices
from services.ledger.transcripts import Call, larger

UNNAMED = "import"  # calls of no conversation
ENDED = -1  # the file is read


@dataclass(frozen=True, slots=True)
class Run(Keep):
    """One import. ``file`` is being read, ``read_to`` so far; ``id`` is the command's."""

    id: str
    paths: tuple[str, ...]
    at: datetime
    file: str = ""
    read_to: int = 0
    files: int = 0
    lines: int = 0
    added: int = 0
    duplicates: int = 0
    broken: int = 0
    unreadable: int = 0
    done: bool = False

    def result(self) -> m.ImportResult:
        return m.ImportResult(
            files=self.files,
            lines=self.lines,
            added=self.added,
            duplicates=self.duplicates,
            broken=self.broken,
            unreadable=self.unreadable,
        )


@dataclass(frozen=True, slots=True)
class KeepBatch(Keep):
    """Calls that a run has found, and their rows: none of them is known."""

    messages: Sequence[Message]
    rows: Sequence[Posting]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some lines of a file. ``calls``: merged, with how many lines told of each. ``end``: of the file."""

    file: str
    read_to: int
    lines: int
    broken: int
    calls: Mapping[str, tuple[Call, int]]
    end: bool = False
    unreadable: bool = False


class Imports:
    """Runs that are not done, oldest first. ``owner``: whose conversation it is, if it is one of ours."""

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        known: Callable[[Sequence[str]], Mapping[str, Message]],
        owner: Callable[[str], Followed | None],
        prices: Prices,
    ) -> None:
        self.runs = list(runs)
        self._known = known
        self._owner = owner
        self._prices = prices

    def begin(self, command: m.LedgerImport, now: datetime) -> list[Effect]:
        run = Run(command.id or f"import-{now.timestamp():.3f}", tuple(command.paths), now)
        self.runs.append(run)
        return [run]

    def batch(self, run: Run, batch: Batch) -> tuple[Run, list[Message], list[Posting]]:
        """The run as it is then, and what is new."""
        known = self._known(list(batch.calls)) if batch.calls else {}
        messages: list[Message] = []
        added = duplicates = 0
        for key, (call, tellings) in batch.calls.items():
            at = datetime.fromtimestamp(call.at / 1000, UTC)
            before, owner = known.get(key), self._owner(call.conversation)
            if before is None and not (owner is not None and at >= owner.since):
                uid = call.conversation or UNNAMED
                messages.append(message_of(call, self._prices, uid, at, booked=True))
                added += 1
                duplicates += tellings - 1
                continue
            duplicates += tellings
            if before is not None and before.booked and larger(call.use, before.use):
                made = message_of(call, self._prices, before.uid, before.at, booked=True)
                messages.append(replace(made, before=before))
        then = replace(
            run,
            file=batch.file,
            read_to=ENDED if batch.end else batch.read_to,
            files=run.files + (batch.end and not batch.unreadable),
            lines=run.lines + batch.lines,
            added=run.added + added,
            duplicates=run.duplicates + duplicates,
            broken=run.broken + batch.broken,
            unreadable=run.unreadable + batch.unreadable,
        )
        self.runs[self.runs.index(run)] = then
        rows = [posting_of(one, IMPORT, notional=False, estimated=False) for one in messages]
        return then, messages, rows

    def finish(self, run: Run, now: datetime) -> list[Effect]:
        """The run has read all its files: its answer."""
        self.runs.remove(run)
        done = replace(run, done=True)
        return [done, ReplyTo(run.id, run.result()), progress(done, 1, 1, now)]


def accounts_of(messages: Sequence[Message], calls: Mapping[str, tuple[Call, int]]) -> dict[str, KeepSession]:
    """The accounts that these messages need, by uid."""
    found: dict[str, KeepSession] = {}
    for one in messages:
        if one.uid not in found:
            cwd = calls[one.key][0].cwd
            found[one.uid] = KeepSession(one.uid, one.uid, cwd, IMPORT, one.at, shown=False)
    return found


def progress(run: Run, done: int, of: int, now: datetime) -> Publish:
    """How far a run is: bytes, of all its files."""
    said = f"{run.files} files, {run.lines} lines: {run.added} calls added, {run.duplicates} known"
    if run.broken or run.unreadable:
        said += f"; {run.broken} lines broken, {run.unreadable} files unreadable"
    event = m.LedgerEvent(at=now, action="import_progress", reason=said, id=run.id, done=done, of=of)
    return Publish(t.LEDGER_EVENTS, event)
