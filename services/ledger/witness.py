"""The second witness: what the transcripts say, beside what the agents said. Pure.

Theory of operation. Ingest tells which conversations a session has (`followed`); the shell reads their files,
on from where it was, after each report and for as long as something is open, and hands over the calls of the
model that stand in them (`read`). Each call is kept once, under the session that it was first seen for.

Two things come of it:

- **What an agent could not report.** When a process is gone in mid turn, ingest names the messages that no
  result has covered (`unreported`): it has heard them in the order in which they were said, so no clock
  decides which they are, and none is both in a total and among them. They are booked from the transcript, as
  an estimate; and from ingest's count what was streamed in the last moment, which the agent had no time to
  write there. Where it was not heard to its end (its bridge was dead, too), what stands after them is booked
  as well (`_unheard`). If a total of the same process comes after all (its last frames were read late), the
  estimate is taken back, model by model (`covered`).
- **Drift.** `SETTLE_S` after a report, when the agent has written its lines, both are compared up to the
  report's time. A difference beyond a cent or 1 % is told, with its cause where it can be known.

An agent that reports no cost (``booked``: external and interactive sessions) has all of it booked from its
transcripts. What was imported, or belongs to another session, is nobody's twice: a call has one owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish
from services.ledger import money
from services.ledger.estimates import booked_posting, lost_posting, message_of
from services.ledger.evidence import (
    Archive,
    Followed,
    Lost,
    Message,
    Read,
    ReadTo,
    Told,
    Witnessed,
)
from services.ledger.model import Account, Posting, Report, Use
from services.ledger.prices import Prices
from services.ledger.transcripts import MAX_ID, Call, larger, merge

SETTLE_S = 3.0  # Claude Code writes its lines within 0.2 s; a loaded machine takes longer
GIVE_UP_S = 120.0  # a transcript that has not come by then does not exist, or not here
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CENT = money.PICO // 100
NOISE = money.PICO // 100_000  # of a tiny sum, 1 % is less than the agent's own rounding

Book = Callable[[Sequence[Posting], datetime], list[Effect]]


@dataclass(slots=True)
class Case:
    """What is open about one session."""

    followed: dict[str, Followed] = field(default_factory=dict)  # by conversation
    lost: list[Lost] = field(default_factory=list)
    compare: tuple[datetime, int] | None = None  # (report's time, spent by then): not yet compared
    last: int = 0  # place of the message that was read last


class Witness:
    """Events in, effects out. ``book`` books postings, ``account`` finds a session's sums."""

    def __init__(
        self,
        *,
        archive: Archive,
        prices: Prices,
        book: Book,
        account: Callable[[str], Account | None],
        followed: Iterable[Followed],
        lost: Iterable[Lost],
        sums: Iterable[Witnessed],
    ) -> None:
        self._archive = archive
        self._prices = prices
        self._book = book
        self._account = account
        self._cases: dict[str, Case] = {}
        self._owners: dict[str, Followed] = {}  # by conversation
        self._latest: dict[str, Followed] = {}  # by conversation: who has resumed it last
        for one in followed:
            self._follow(one)
        for gone in lost:
            self._case(gone.uid).lost.append(gone)
        for row in sums:
            if row.last:
                self._case(row.uid).last = row.last
            found = account(row.uid)
            if found is not None:
                found.transcript = row.cost

    def _case(self, uid: str) -> Case:
        return self._cases.setdefault(uid, Case())

    # what ingest says

    def followed(self, uid: str, data: m.ConversationFollowed) -> list[Effect]:
        if data.conversation in self._case(uid).followed:
            return []
        made = Followed(uid, data.conversation, data.cwd, data.path, data.since, data.booked)
        self._follow(made)
        return [made]

    def _follow(self, one: Followed) -> None:
        """In the order in which ingest told of them: what is written from now on into a conversation's
        transcript is the session's that has it now.
        """
        self._case(one.uid).followed[one.conversation] = one
        self._owners.setdefault(one.conversation, one)
        self._latest[one.conversation] = one

    def unreported(self, uid: str, fact: m.Fact, data: m.CostUnreported) -> list[Effect]:
        told = {
            model: Use(
                0,
                use.input,
                use.output,
                use.cache_read,
                use.cache_write_5m + use.cache_write_1h,
                use.cache_write_5m,
                use.cache_write_1h,
            )
            for model, use in data.usage.items()
        }
        messages = tuple(name[:MAX_ID].replace("\0", "") for name in data.messages or [data.first])
        whose = (fact.id, uid, data.process, data.turn)
        made = Lost(*whose, messages, data.whole, fact.at, data.notional, told)
        self._case(uid).lost.append(made)
        return [made]

    def reported(self, report: Report, spent: int) -> None:
        """A total was booked; ``spent`` is the session's sum with it."""
        if not report.baseline:
            self._case(report.uid).compare = (report.at, spent)

    def covered(self, report: Report) -> tuple[list[Posting], list[Effect]]:
        """Rows that take back what this report's total counts after all."""
        case = self._cases.get(report.uid)
        rows: list[Posting] = []
        effects: list[Effect] = []
        if case is None or report.baseline:
            return rows, effects
        for place, lost in enumerate(case.lost):
            if lost.process != report.process or report.turn <= lost.turn or lost.state == "covered":
                continue
            for model, (use, priced) in (lost.uses or {}).items():
                row, back = f"{lost.fact}/-{report.fact}/{model}", Use().minus(use)
                worth = None if priced is None else -priced
                rows.append(lost_posting(lost, row, model, report.at, back, worth))
            case.lost[place] = replace(lost, state="covered", uses={}, beyond=0)
            effects.append(case.lost[place])
        return rows, effects

    # what the shell reads

    def due(self) -> list[str]:
        """Sessions whose transcripts are to be read now."""
        return [
            uid
            for uid, case in self._cases.items()
            if case.compare is not None
            or any(lost.state == "open" for lost in case.lost)
            or any(one.booked and self._latest[one.conversation] is one for one in case.followed.values())
        ]

    def owner(self, conversation: str) -> Followed | None:
        """Whose conversation it is, if it is one of ours."""
        return self._owners.get(conversation)

    def conversations(self, uid: str) -> list[Followed]:
        followed = self._case(uid).followed.values()
        return [one for one in followed if not one.booked or self._latest[one.conversation] is one]

    def read(self, uid: str, found: Sequence[Read], now: datetime) -> list[Effect]:
        """What is new in the transcripts of a session, up to now."""
        effects: list[Effect] = []
        rows: list[Posting] = []
        account = self._account(uid)
        for conversation, calls, places in found:
            followed = self._case(uid).followed[conversation]
            for message in self._new(followed, calls):
                effects.append(message)
                if account is not None:
                    account.transcript = (account.transcript or 0) + message.grown().cost
                if followed.booked:
                    rows.append(booked_posting(message, account is not None and account.notional))
            effects += [ReadTo(path, uid, place) for path, place in places]
        if rows:
            effects += self._book(rows, now)
        if any(isinstance(effect, Message) for effect in effects):
            return effects  # first they are kept; the next reading settles
        return [*effects, *self._settle(uid, now), *self._judge(uid, account, now)]

    def _new(self, followed: Followed, calls: Sequence[Call]) -> Iterable[Message]:
        case = self._case(followed.uid)
        merged = merge(calls)
        known = self._archive.known(list(merged)) if merged else {}
        for key, call in merged.items():
            at = datetime.fromtimestamp(call.at / 1000, UTC)
            before = known.get(key)
            if before is None:
                case.last += 1
                made = message_of(call, self._prices, followed.uid, at, booked=followed.booked)
                yield replace(made, place=case.last)
            elif before.uid == followed.uid and larger(call.use, before.use):
                made = message_of(call, self._prices, followed.uid, before.at, booked=before.booked)
                yield replace(made, place=before.place, before=before)

    def _settle(self, uid: str, now: datetime) -> list[Effect]:
        """Book what was lost, if its transcript tells of it by now."""
        case = self._case(uid)
        effects: list[Effect] = []
        for place, lost in enumerate(case.lost):
            if lost.state != "open":
                continue
            messages = self._ended_with(lost)
            wait = SETTLE_S if lost.told or messages else GIVE_UP_S
            if now - lost.at < timedelta(seconds=wait) and not self._whole(lost, messages):
                continue
            rows, uses = self._rows(lost, messages, self._before(lost))
            found = bool(rows or messages)
            state = "booked" if found else "gone"
            beyond = sum(row.use.cost for row in rows if "~" in row.id)
            case.lost[place] = replace(lost, state=state, uses=uses, beyond=beyond)
            effects += [case.lost[place], Told(lost=int(not found)), *self._book(rows, now)]
            if case.compare is not None:
                case.compare = (case.compare[0], case.compare[1] + sum(row.use.cost for row in rows))
            if not found:
                effects.append(self._unfound(lost, now))
        return effects

    @staticmethod
    def _whole(lost: Lost, messages: Sequence[Message]) -> bool:
        """Whether the transcript tells of all that was heard: an agent writes its lines a little later."""
        written = {one.message for one in messages}
        return written.issuperset(lost.messages) and not any(
            use.tokens for use in _missing(lost, messages).values()
        )

    def _rows(
        self, lost: Lost, messages: Sequence[Message], before: set[str]
    ) -> tuple[list[Posting], dict[str, tuple[Use, int | None]]]:
        """What is booked for it, and the sums of that by model: the transcript, and what only streamed."""
        rows = []
        for one in messages:
            if one.key in before:
                continue
            priced = None if one.unpriced else one.use.cost
            rows.append(lost_posting(lost, f"{lost.fact}/{one.key}", one.model, one.at, one.use, priced))
        for model, use in _missing(lost, messages).items():
            if use.tokens:
                priced = self._prices.total(model, lost.at, use)
                row = f"{lost.fact}/~{model}"
                rows.append(lost_posting(lost, row, model, lost.at, use._replace(cost=priced or 0), priced))
        uses: dict[str, tuple[Use, int | None]] = {}
        for booked in rows:
            use, sum_ = uses.get(booked.model, (Use(), 0))
            total = None if booked.priced is None or sum_ is None else sum_ + booked.priced
            uses[booked.model] = (use.plus(booked.use), total)
        return rows, uses

    def _ended_with(self, lost: Lost) -> list[Message]:
        """The messages that were lost with a process, as far as they are read."""
        heard = self._archive.spoken(lost.uid, lost.messages)
        found = heard if lost.whole or not heard else [*heard, *self._unheard(lost, heard)]
        return [one for one in found if not one.booked]

    def _before(self, lost: Lost) -> set[str]:
        """What is booked of the same process already: what nobody had heard may have been heard later on."""
        others = [one for one in self._case(lost.uid).lost if one.process == lost.process]
        booked = [one for one in others if one.state == "booked"]
        return {message.key for one in booked for message in self._ended_with(one)}

    def _unheard(self, lost: Lost, heard: Sequence[Message]) -> list[Message]:
        """What the process wrote after all that was heard of it. It stands behind that in the order of
        reading, so no total has counted it, and is from before the process's end, so the next one, which is
        started after that, did not write it. (The end alone goes by a clock: nothing else is known of it.)
        """
        last = max(heard, key=lambda one: one.place)
        found = self._archive.between(lost.uid, last.at, lost.at)
        known = {one.key for one in heard}
        return [one for one in found if one.place >= last.place and one.key not in known]

    def _unfound(self, lost: Lost, now: datetime) -> Publish:
        account = self._account(lost.uid)
        name = account.session if account is not None else ""
        reason = "an agent was killed before it told what it spent, and no transcript of it was found"
        event = m.LedgerEvent(at=now, action="drift", session=name, uid=lost.uid, reason=reason)
        return Publish(t.LEDGER_EVENTS, event)

    # comparing

    def _judge(self, uid: str, account: Account | None, now: datetime) -> list[Effect]:
        case = self._case(uid)
        if account is None or case.compare is None or any(lost.state == "open" for lost in case.lost):
            return []
        at, spent = case.compare
        if now - at < timedelta(seconds=SETTLE_S) and now >= at:
            return []
        case.compare = None
        if any(one.booked for one in case.followed.values()):
            return []  # there is one witness alone
        seen = self._archive.spent(uid, at)
        if seen is None:
            return []
        account.drift = spent - seen - sum(lost.beyond for lost in case.lost)
        out = exceeds(account.drift, spent)
        before, account.cause = account.cause, None
        if out:
            own = spent - account.priced  # the agent's figure less the table's, of the same tokens
            account.cause = self._cause(account.drift, own, self._archive.between(uid, EPOCH, at))
        if not out or before is not None:
            return []
        drift, whole = money.to_usd(account.drift), money.to_usd(spent)
        event = m.LedgerEvent(
            at=now,
            action="drift",
            session=account.session,
            uid=uid,
            reason=f"{whole:.6f} dollars are counted, {drift:+.6f} against its transcripts: {account.cause}",
        )
        return [Publish(t.LEDGER_EVENTS, event), Told(drift=1)]

    def _cause(self, drift: int, own: int, messages: Sequence[Message]) -> str:
        unpriced = sorted({one.model for one in messages if one.unpriced})
        if unpriced:
            return f"there is no price for {', '.join(unpriced[:5])}"
        hours = sum(self._dearer(one) for one in messages)
        if hours and _explains(-hours, drift):
            return "the agent takes its 1-hour cache writes for 5-minute ones (as 2.1.119 does)"
        if own and _explains(own, drift):
            return "the agent's own prices are not those of the price table"
        if drift > 0:
            return "the agent counts calls that stand in no transcript of this session"
        return "the transcripts tell of calls that the agent does not count"

    def _dearer(self, message: Message) -> int:
        rates = self._prices.rates(message.model, message.at)
        if rates is None:
            return 0
        return message.use.cache_write_1h * (rates.cache_write_1h - rates.cache_write_5m)


def _missing(lost: Lost, messages: Sequence[Message]) -> dict[str, Use]:
    """What was streamed and stands in no transcript, by model; tokens alone."""
    seen: dict[str, Use] = {}
    for one in messages:
        seen[one.model] = seen.get(one.model, Use()).plus(one.use)
    return {
        model: Use(0, *(max(0, count) for count in use.minus(seen.get(model, Use()))[1:]))
        for model, use in lost.told.items()
    }


def _explains(part: int, drift: int) -> bool:
    """Whether it is most of the drift."""
    return abs(drift - part) * 5 <= abs(drift)


def exceeds(drift: int, spent: int) -> bool:
    """Beyond a cent, or 1 %."""
    return abs(drift) > CENT or abs(drift) > max(NOISE, abs(spent) // 100)
