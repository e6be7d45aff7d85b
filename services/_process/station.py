"""The loop that every owner on the bus runs: read, decode, decide, keep, say.

A service registers one handler per command row, fact type and foreign snapshot or event, and hands over two
functions: ``keep`` writes a `Keep` effect within the transaction, ``do`` carries out a `Do` effect after it.
Handlers are plain functions: they call the service's core and return its effects. What they raise decides who
is told: `RefusedError` (the user's fault) and `PeerError` (the peer's) become the error reply, or, without an
id, a message on ``errors``; anything else is a bug of ours and ends the process, whose successor starts from
its store.

Over 400 lines because facts, commands and what is said after them share one order and one transaction.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar, cast

import msgspec
import trio

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Connected, Received
from bus.durable import RESEND_S, WINDOW, Mailbox
from bus.effects import Do, Effect, Keep, Post, Publish, ReplyTo
from bus.errors import PeerError, RefusedError
from bus.topics import Kind, Topic
from services._process.context import Context
from services._process.metrics import StationFigures
from services._process.store import checkpoint, file_of, transaction

C = TypeVar("C", bound=m.Command)
P = TypeVar("P", bound=m.Payload)
Effects = Iterable[Effect]

FORGET_EVERY_S = 3600.0  # command ids are kept for a day: an hourly sweep is plenty
# Acknowledged facts leave the outbox after this, or when there are so many: a transaction of its own for each
# would double the commits, and one that somebody waits for should not carry them. If they are forgotten the
# fact is sent again and has no effect.
SETTLE_S = 1.0
SETTLE_AT = WINDOW // 4
# Facts that were kept are acknowledged together after this: nobody waits for it (a producer sends again after
# 5 s only), and what somebody does wait for, an approval's way, has fewer messages before it.
ACKNOWLEDGE_S = 0.01
QUIET_S = 1.0  # without a commit: time to carry the store's log over
ASK_AGAIN_S = 1.0  # between two requests for facts that were passed over


class Station:
    """One service's place on the bus. ``connection`` is its store (see `open_store`).

    ``transact`` replaces the store's own transaction, for a service that keeps things elsewhere as well: what
    it commits there must be committed first, and be harmless when it is done again.
    """

    def __init__(
        self,
        context: Context,
        connection: sqlite3.Connection,
        *,
        keep: Callable[[Keep], None] | None = None,
        do: Callable[[Do], None] | None = None,
        transact: Callable[[], AbstractContextManager[None]] | None = None,
    ) -> None:
        self.context = context
        self.bus = context.bus
        self.mailbox = Mailbox(connection)
        self._file = file_of(connection)
        self._transact = transact or partial(transaction, connection)
        self._keep = keep
        self._do = do
        self._figures = StationFigures(context.registry)
        self._commands: dict[Topic, tuple[type[m.Command], Callable[..., Effects]]] = {}
        self._reading: set[Topic] = set()  # rows whose commands change nothing
        self._facts: dict[str, Callable[..., Effects]] = {}
        self._messages: dict[Topic, Callable[[Received, datetime], Effects]] = {}
        self._on_connected: list[Callable[[datetime], Effects]] = []
        self._asked_again: dict[str, datetime] = {}  # producer → when
        self._acked: dict[str, list[str]] = {}  # by owner: to be taken out of the outbox, see SETTLE_S
        self._settle_soon = trio.Event()
        self._to_acknowledge: dict[str, list[tuple[str, m.Refused | None]]] = {}  # by producer
        self._acknowledge_soon = trio.Event()
        self._commits = 0

    # registration, before run()

    def on_command(
        self,
        row: Topic,
        payload: type[C],
        handler: Callable[[C, dict[str, str], datetime], Effects],
        *,
        remember: bool = True,
    ) -> None:
        """The handler returns a `ReplyTo` now, or later from somewhere else. ``remember`` False: it only
        reads, so that nothing of it, nor its answer, need be kept for when it comes again.
        """
        self._commands[row] = (payload, handler)
        if not remember:
            self._reading.add(row)
        self.bus.subscribe(row)

    def on_fact(self, name: str, payload: type[P], handler: Callable[[m.Fact, P, datetime], Effects]) -> None:
        """``name`` is the fact's type. The handler runs once per fact id, within the transaction that keeps
        it: it returns what is to be done, and may raise `RefusedError`.
        """
        assert m.FACT_TYPES[name] is payload  # noqa: S101  # a wiring mistake of ours, seen at start
        self._facts[name] = handler
        self.bus.subscribe(t.FACTS, owner=self.context.service)

    def on_message(self, row: Topic, handler: Callable[[Received, datetime], Effects], **values: str) -> None:
        """Someone else's snapshot or event, as it came."""
        self._messages[row] = handler
        self.bus.subscribe(row, **values)

    def on_connected(self, handler: Callable[[datetime], Effects]) -> None:
        self._on_connected.append(handler)

    # acting

    def act(self, effects: Effects) -> None:
        """Carry out what a core decided: durable things first, in one transaction, then everything else."""
        decided = list(effects)
        if any(isinstance(effect, Keep | Post) for effect in decided) or any(
            isinstance(effect, ReplyTo) and effect.request_id for effect in decided
        ):
            with self._transaction():
                self._write(decided)
        self._say(decided)

    def _transaction(self) -> AbstractContextManager[None]:
        self._commits += 1
        return self._transact()

    def settle(self) -> None:
        """Take acknowledged facts out of the outbox now."""
        acked, self._acked = self._acked, {}
        if acked:
            with self._transaction():
                for owner, ids in acked.items():
                    self.mailbox.acknowledged(owner, m.Ack(ids=ids), self.context.now())
            for owner in acked:  # there may be room in the window again
                self._send_facts(owner, again=False)

    def _write(self, effects: Sequence[Effect]) -> None:
        now = self.context.now()
        for effect in effects:
            if isinstance(effect, Keep):
                if self._keep is None:
                    raise TypeError(f"{effect!r}: this service keeps nothing")
                self._keep(effect)
            elif isinstance(effect, Post):
                self.mailbox.post(effect.owner, effect.fact)
            elif isinstance(effect, ReplyTo) and effect.request_id:
                self.mailbox.answer(_reply(effect), now)

    def _say(self, effects: Sequence[Effect]) -> None:
        owners = dict.fromkeys(effect.owner for effect in effects if isinstance(effect, Post))
        for owner in owners:  # facts first: others wait for them
            self._send_facts(owner, again=False)
        for effect in effects:
            if isinstance(effect, Publish):
                self.bus.publish(effect.row, effect.payload, **effect.values)
            elif isinstance(effect, ReplyTo):
                if effect.request_id:
                    self.bus.publish(t.REPLIES, _reply(effect), id=effect.request_id)
                elif effect.error:
                    self.report(effect.error, "")
            elif isinstance(effect, Do):
                if self._do is None:
                    raise TypeError(f"{effect!r}: this service does nothing of its own")
                self._do(effect)

    def report(
        self, error: PeerError | RefusedError, topic: str, values: Mapping[str, str] | None = None
    ) -> None:
        """Tell that a message without an id could not be acted on. ``values`` are its topic's."""
        about = {"session": values["session"]} if values and "session" in values else {}
        self.context.log.warning("not acted on", topic=topic, code=error.code, reason=error.message, **about)
        self.context.errors.labels(code=error.code).inc()
        self.bus.publish(
            t.ERRORS,
            m.ErrorReport(
                at=self.context.now(),
                service=self.context.service,
                topic=topic,
                code=error.code,
                message=error.message,
            ),
        )

    def _send_facts(self, owner: str, *, again: bool) -> None:
        for payload in self.mailbox.due(owner, again=again):
            self.bus.publish(t.FACTS, payload, producer=self.context.service, owner=owner)

    # reading

    async def run(self) -> None:
        """Read the bus until cancelled."""
        self.bus.subscribe(t.ACKS, producer=self.context.service)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._resend)
            nursery.start_soon(self._forget)
            nursery.start_soon(self._settle_later)
            nursery.start_soon(self._acknowledge_later)
            nursery.start_soon(self._checkpoint_when_quiet)
            await self.bus.deliver(self._take)

    def _take(self, message: Received | Connected) -> None:
        if isinstance(message, Connected):
            for owner in self.mailbox.owners():
                self._send_facts(owner, again=True)
            for producer in self.mailbox.producers():
                self._ask_again(producer)
            for handler in self._on_connected:
                self.act(handler(self.context.now()))
        elif message.node == self.context.config.node.name:
            self.receive(message)

    def receive(self, message: Received) -> None:
        """Act on one message of our own node. Never raises for what a peer sent."""
        began = time.perf_counter()
        self._receive(message)
        self._figures.handled(message.row, time.perf_counter() - began)

    def _receive(self, message: Received) -> None:
        row = message.row
        if row is t.ACKS:
            self._on_acks(message)
        elif row is t.FACTS:
            self._on_fact(message)
        elif row.kind is Kind.COMMAND and row in self._commands:
            self._on_command(message)
        elif row in self._messages:
            try:
                self.act(self._messages[row](message, self.context.now()))
            except PeerError as error:
                self._figures.undecodable(row)
                self.report(error, message.topic, message.values)

    def _on_command(self, message: Received) -> None:
        if message.retained or not message.payload:
            return  # a retained command is ignored, and so is the empty message that clears it
        now = self.context.now()
        payload_type, handler = self._commands[message.row]
        try:
            command = codec.decode(message.row, message.payload, payload_type)
        except PeerError as error:
            self._figures.undecodable(message.row)
            if error.request_id is None:
                self.report(error, message.topic, message.values)
            else:
                self._say([ReplyTo(error.request_id, error=RefusedError(error.code, error.message))])
            return
        content = message.topic.encode() + b"\0" + message.payload
        reads = message.row in self._reading
        if command.id is not None and not reads:
            seen = self.mailbox.seen(command.id, content)
            if seen is not None:
                self._again(command.id, seen.same_content, seen.reply)
                return
        try:
            effects = list(handler(command, message.values, now))
        except RefusedError as error:
            effects = [ReplyTo(command.id, error=error)]
        except PeerError as error:
            effects = [ReplyTo(command.id, error=RefusedError(error.code, error.message))]
        if command.id is None:
            failed = [e for e in effects if isinstance(e, ReplyTo) and e.error is not None]
            effects = [e for e in effects if not (isinstance(e, ReplyTo) and e.request_id is None)]
            for reply in failed:
                self.report(cast(RefusedError, reply.error), message.topic, message.values)
            self.act(effects)
            return
        if reads:
            self._say(effects)
            return
        with self._transaction():  # the id is remembered together with what it did, or not at all
            self.mailbox.begin(command.id, content, now)
            self._write(effects)
        self._say(effects)

    def _again(self, command_id: str, same_content: bool, reply: bytes | None) -> None:
        if not same_content:
            error = RefusedError("bad_request", "this id was used for another command: take a new one")
            self.bus.publish(t.REPLIES, _reply(ReplyTo(command_id, error=error)), id=command_id)
        elif reply is not None:
            self.bus.publish(t.REPLIES, reply, id=command_id)
        # else: still being worked on, the answer will come

    def _on_fact(self, message: Received) -> None:
        producer = message.values["producer"]
        try:
            fact = codec.decode(t.FACTS, message.payload, m.Fact)
        except PeerError as error:
            self._figures.undecodable(t.FACTS)
            self.report(error, message.topic, message.values)
            if error.request_id is not None:  # else it would come again for ever
                bad = m.Refused(id=error.request_id, code=error.code, message=error.message)
                self._refuse(producer, bad)
            return
        if not self.mailbox.in_order(producer, fact):
            self._ask_again(producer)
            return
        now = self.context.now()
        effects: list[Effect] = []
        with self._transaction():
            if self.mailbox.keep(producer, fact.id, now):
                refused = None
                try:
                    effects = self._effects_of(fact, now)
                except (PeerError, RefusedError) as error:
                    refused = m.Refused(id=fact.id, code=error.code, message=error.message)
                    self.mailbox.refuse(producer, refused, now)
                    self.context.errors.labels(code=error.code).inc()
                self._write(effects)
            else:
                refused = self.mailbox.refusal(producer, fact.id)
        self._acknowledge(producer, fact.id, refused)
        self._say(effects)

    def _refuse(self, producer: str, bad: m.Refused) -> None:
        """A fact that cannot be read; what was dealt with under its id before is answered as it was."""
        now = self.context.now()
        with self._transaction():
            if not self.mailbox.kept(producer, bad.id):
                self.mailbox.refuse(producer, bad, now)
            refused = self.mailbox.refusal(producer, bad.id)
        self._acknowledge(producer, bad.id, refused)

    def _effects_of(self, fact: m.Fact, now: datetime) -> list[Effect]:
        handler = self._facts.get(fact.type)
        if handler is None:
            raise PeerError("bad_request", f"{self.context.service} takes no fact {fact.type!r}")
        return list(handler(fact, codec.decode_data(fact), now))

    def _acknowledge(self, producer: str, fact_id: str, refused: m.Refused | None) -> None:
        self._to_acknowledge.setdefault(producer, []).append((fact_id, refused))
        self._acknowledge_soon.set()

    def acknowledge(self) -> None:
        """Tell producers now what was kept and refused."""
        waiting, self._to_acknowledge = self._to_acknowledge, {}
        for producer, facts in waiting.items():
            ids = [fact_id for fact_id, refused in facts if refused is None]
            ack = m.Ack(ids=ids, refused=[refused for _, refused in facts if refused is not None])
            self.bus.publish(t.ACKS, ack, owner=self.context.service, producer=producer)

    def _ask_again(self, producer: str) -> None:
        """Have the producer send what waits, from the first: something was lost, or we were away."""
        now, last = self.context.now(), self._asked_again.get(producer)
        if last is None or not timedelta() <= now - last < timedelta(seconds=ASK_AGAIN_S):
            self._asked_again[producer] = now
            self.bus.publish(t.ACKS, m.Ack(ids=[]), owner=self.context.service, producer=producer)

    def _on_acks(self, message: Received) -> None:
        try:
            ack = codec.decode(t.ACKS, message.payload, m.Ack)
        except PeerError as error:
            self._figures.undecodable(t.ACKS)
            self.report(error, message.topic, message.values)
            return
        owner = message.values["owner"]
        if not ack.ids and not ack.refused:
            self._send_facts(owner, again=True)
            return
        effects: list[Effect] = []
        for fact_id in ack.ids:
            effects += self.fact_kept(fact_id)
        for told in ack.refused:
            if self.mailbox.waits(owner, told.id):
                effects += self.fact_refused(told)
        if not effects and not ack.refused:
            self._acked.setdefault(owner, []).extend(ack.ids)
            self._settle_soon.set()
            if len(self._acked[owner]) >= SETTLE_AT:
                self.settle()
            return
        with self._transaction():  # what follows from the acknowledgement is kept with it, or neither is
            aside = self.mailbox.acknowledged(owner, ack, self.context.now())
            self._write(effects)
        for refused in aside:
            self.context.log.error(
                "fact refused", owner=owner, fact=refused.id, code=refused.code, reason=refused.message
            )
            self.report(
                RefusedError(refused.code, f"{owner} refused {refused.id}: {refused.message}"), "facts"
            )
        self._say(effects)
        self._send_facts(owner, again=False)

    def fact_kept(self, fact_id: str) -> Effects:
        """For a service that must know when its fact was kept: replace it."""
        return ()

    def fact_refused(self, refused: m.Refused) -> Effects:
        """For a service that must know when its fact was refused: replace it."""
        return ()

    async def _resend(self) -> None:
        while True:
            self._figures.waiting(self.mailbox.waiting())
            await trio.sleep(RESEND_S)
            for owner in self.mailbox.owners():
                self._send_facts(owner, again=True)

    async def _settle_later(self) -> None:
        while True:
            await self._settle_soon.wait()
            await trio.sleep(SETTLE_S)
            self._settle_soon = trio.Event()
            self.settle()

    async def _acknowledge_later(self) -> None:
        while True:
            await self._acknowledge_soon.wait()
            await trio.sleep(ACKNOWLEDGE_S)
            self._acknowledge_soon = trio.Event()
            self.acknowledge()

    async def _checkpoint_when_quiet(self) -> None:
        path = self._file
        seen = done = self._commits
        while path is not None:
            await trio.sleep(QUIET_S)
            if self._commits == seen != done:
                done = seen
                await trio.to_thread.run_sync(checkpoint, path)
            seen = self._commits

    async def _forget(self) -> None:
        while True:
            with self._transact():
                self.mailbox.forget_old(self.context.now())
            await trio.sleep(FORGET_EVERY_S)


def _reply(effect: ReplyTo) -> m.Reply:
    request_id = effect.request_id or ""
    if effect.error is not None:
        details = effect.error.details if effect.error.details is not None else msgspec.UNSET
        body = m.ErrorBody(code=effect.error.code, message=effect.error.message, details=details)
        return m.Reply(id=request_id, ok=False, error=body)
    return m.Reply(id=request_id, ok=True, result=effect.result if effect.result is not None else {})
