"""Connections of agents and bridges, and what comes over them. No I/O: a connection is a number here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec

from bus import bridge_wire as bw
from bus import topics as t
from bus.effects import Effect, Publish
from services.ingest import delivery, life, running, turns, wire
from services.ingest.deltas import Deltas
from services.ingest.exceptions import Excepted
from services.ingest.model import Close, KeepSeen, KeepSession, Link, SendAck, SendBye, Session
from services.ingest.registry import GRACE_S, Registry
from services.ingest.step import Step

INIT_S = 30.0  # an agent that does not answer `initialize` gets its prompts anyway
COMMIT_BYTES = 256 * 1024  # of a journal that may be read again after a crash

_encode = msgspec.json.Encoder().encode


class Links(Registry):
    """Who is connected, and the way of frames into steps."""

    def token_sha256(self, name: str) -> tuple[str, str] | None:
        """(hash of the token, kind) of the session that an agent of this name may belong to."""
        session = self._by_name.get(name)
        return None if session is None else (session.record.token_sha256, session.record.kind)

    def uid(self, name: str) -> str:
        return self._by_name[name].record.uid

    def connected(
        self, name: str, number: int, now: datetime, *, bridge: bool, seen: set[str]
    ) -> list[Effect]:
        """An authenticated connection. A bridge says hello next; an sdk-url agent replaces its older one (it
        reconnects when it lost that), and what it repeats is left out by ``seen``.
        """
        session = self._by_name[name]
        effects: list[Effect] = []
        if bridge:
            self._links[number] = session
            return effects
        if not session.record.living:
            return [Close(number, "the session has ended", code=4001)]  # 4001: the agent exits
        effects += self._replace(session, number)
        session.link = Link(number, bridge=False, replaying=bool(seen), seen=seen)
        step = self._step(session, now)
        if self._fits(session, session.link):
            self._greet(step)
        return [*effects, *self._close(step)]

    def hello(self, number: int, hello: bw.BridgeHello, now: datetime) -> list[Effect]:
        """The bridge of an agent process. The newer connection is the right one: the older is dead or about
        to be. A process that we do not know yet is one whose fact is on its way.
        """
        session = self._links.get(number)
        if session is None or hello.process < session.record.process:
            return [Close(number, f"agent process {hello.process} is over", refused=True)]
        if hello.v != bw.VERSION:
            return [Close(number, f"protocol {hello.v} is not spoken here", refused=True)]
        effects = self._replace(session, number)
        session.link = Link(number, bridge=True, hello=hello.process)
        step = self._step(session, now)
        step.visible = True
        if self._fits(session, session.link):
            # A store put back from a backup may know fewer, and the bridge drops numbers that it has had.
            session.record.line = max(session.record.line, hello.written)
            self._greet(step)
        return [*effects, *self._close(step)]

    def _replace(self, session: Session, number: int) -> list[Effect]:
        old = session.link
        self._links[number] = session
        self._deltas[number] = Deltas(session.record.session, session.record.uid)
        if old is None or old.number == number:
            return []
        self._unlink(old.number)
        return [Close(old.number, "a newer connection took over", code=1001)]

    def _unlink(self, number: int) -> None:
        self._links.pop(number, None)
        self._deltas.pop(number, None)
        self._behind.pop(number, None)
        self._figures.pop(number, None)

    def _fits(self, session: Session, link: Link) -> bool:
        return session.record.process > 0 and link.hello in (0, session.record.process)

    def _greet(self, step: Step) -> None:
        delivery.greet(step)
        r = step.r
        if r.alive and not r.initialized:
            self._set(r, "init", step.now + timedelta(seconds=INIT_S))
        self._timers.pop((r.uid, "grace"), None)
        self._timers.pop((r.uid, "baseline"), None)  # it has as long again

    def disconnected(self, number: int, now: datetime) -> list[Effect]:
        session = self._links.get(number)
        self._unlink(number)
        if session is None or session.link is None or session.link.number != number:
            return []
        session.link = None
        step = self._step(session, now)
        step.visible = True
        r = session.record
        if r.kind == "sdk-url" and r.alive and r.exit is None:
            step.effects += [Excepted("callback_lost") for _ in r.callbacks]
        if r.living and r.alive:
            self._set(r, "grace", now + timedelta(seconds=GRACE_S))
        if r.exit is not None and r.kind != "managed":
            life.gone(step)
        return self._close(step)

    # ── what agents say ──────────────────────────────────────────────────────────────────────────────────

    def data(self, number: int, message: bw.Data, now: datetime) -> list[Effect] | None:
        """A piece of the journal. None: it does not follow what we have, so the bridge must begin anew."""
        session = self._links.get(number)
        link = session.link if session is not None else None
        if session is None or link is None or link.number != number or not link.greeted:
            return None
        r = session.record
        if message.offset != r.offset:
            return None
        raw = message.raw
        effects = self.lines(
            number, raw.split(b"\n") if raw.count(b"\n") > 1 else (raw,), now, end=message.end
        )
        if link.acked != r.offset:
            self._behind[number] = session
        return effects

    def lines(
        self, number: int, lines: Iterable[bytes], now: datetime, *, end: int | None = None
    ) -> list[Effect]:
        """Frames of an agent, one a line; ``end``: the journal's offset after them. The hot path: deltas go
        into `Deltas` and leave with `flush`, everything else through one `Step`.
        """
        session = self._links.get(number)
        link = session.link if session is not None else None
        if session is None or link is None or link.number != number:
            return []
        deltas, messages, decode = self._deltas[number], session.messages, wire.decode
        step: Step | None = None
        for line in lines:
            if not line:
                continue
            try:
                frame = decode(line)
            except wire.WireError:
                self.malformed += 1
                continue
            if type(frame) is wire.StreamEvent:
                if not link.replaying and not deltas.add(frame, messages) and running.heard(session, frame):
                    step = step or self._step(session, now)
                    running.finished(step, frame)
                continue
            step = self._frame(session, frame, step, now)
        r = session.record
        if end is not None:
            r.offset = end
        if step is None:
            if deltas.full:
                return self._flushed(deltas, now)
            if end is not None and end - link.kept >= COMMIT_BYTES:
                return self._commit(session, link)
            return []
        r.last_activity_at = now
        return [*self._flushed(deltas, now), *self._close(step)]

    def _frame(self, session: Session, frame: wire.Frame, step: Step | None, now: datetime) -> Step | None:
        link = session.link
        handler = turns.HANDLERS.get(type(frame))
        uuid = getattr(frame, "uuid", None)
        if isinstance(frame, wire.Unknown):
            name = frame.type if frame.type in self.unknown or len(self.unknown) < 100 else "others"
            self.unknown[name] = self.unknown.get(name, 0) + 1
        if handler is None:
            return step
        step = step or self._step(session, now)
        if link is not None and not link.bridge:
            if uuid is not None and uuid in link.seen:
                return step
            link.replaying = False
            if uuid is not None:
                step.effects.append(KeepSeen(session.record.uid, uuid))
        if session.record.living:
            try:
                handler(step, frame)
            except wire.WireError:
                self.malformed += 1
            step.settle()
        elif isinstance(frame, wire.Result):
            turns.late_result(step, frame)
        return step

    def taken(self, number: int, n: int, now: datetime) -> list[Effect]:
        return self._linked(number, now, lambda step: delivery.taken(step, n))

    def unwritable(self, number: int, n: int, reason: str, now: datetime) -> list[Effect]:
        return self._linked(number, now, lambda step: delivery.unwritable(step, n, reason))

    def measured(self, number: int, figures: bw.Figures) -> None:
        """How the bridge is, for metrics."""
        session = self._links.get(number)
        if session is not None and session.link is not None and session.link.number == number:
            self._figures[number] = figures

    def agent_gone(self, number: int, message: bw.Exit, now: datetime) -> list[Effect]:
        """The bridge's last word. It is kept, then the bridge may go."""
        session = self._links.get(number)
        link = session.link if session is not None else None
        if (
            session is None
            or link is None
            or link.number != number
            or message.process != session.record.process
        ):
            return []
        step = self._step(session, now)
        life.drained(step)
        step.durable = True
        effects = self._close(step)
        at = next((i for i, e in enumerate(effects) if isinstance(e, Close)), len(effects))
        return [*effects[:at], SendAck(number, session.record.offset), SendBye(number), *effects[at:]]

    def _linked(self, number: int, now: datetime, work: Callable[[Step], None]) -> list[Effect]:
        session = self._links.get(number)
        if session is None or session.link is None or session.link.number != number:
            return []
        step = self._step(session, now)
        work(step)
        return self._close(step)

    # ── deltas and offsets ───────────────────────────────────────────────────────────────────────────────

    def flush(self, now: datetime) -> list[Effect]:
        """The texts that were joined since the last call."""
        effects: list[Effect] = []
        for deltas in self._deltas.values():
            if deltas.waiting:
                effects += self._flushed(deltas, now)
        return effects

    def flush_one(self, number: int, now: datetime) -> list[Effect]:
        """Without joining: at once."""
        deltas = self._deltas.get(number)
        return [] if deltas is None or not deltas.waiting else self._flushed(deltas, now)

    def waiting(self, number: int) -> bool:
        deltas = self._deltas.get(number)
        return deltas is not None and deltas.waiting

    def _flushed(self, deltas: Deltas, now: datetime) -> list[Effect]:
        where = {"session": deltas.session, "type": "delta"}
        return [Publish(t.SESSION_EVENT, data, where) for data in deltas.flush(now)]

    def _commit(self, session: Session, link: Link) -> list[Effect]:
        r = session.record
        self._behind.pop(link.number, None)
        keep = [] if link.kept == r.offset else [KeepSession(r.uid, _encode(r))]
        link.kept = link.acked = r.offset
        return [*keep, SendAck(link.number, r.offset)]
