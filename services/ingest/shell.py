"""Ingest in the world: its store, its server, its clock and its place on the bus. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import trio
from prometheus_client import Counter

from bus import bridge_wire as bw
from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.base import BusBase
from bus.effects import Do, Effect, Publish, ReplyTo
from bus.errors import BusDownError, RefusedError
from bus.requests import Requester
from services._process.admission import WATCHDOG, admission
from services._process.context import Context
from services._process.ports import port_for
from services._process.station import Station
from services._process.store import open_store
from services.ingest.bridge_metrics import BridgeFigures
from services.ingest.core import INDEX_S, Sessions
from services.ingest.deltas import JOIN_S
from services.ingest.exceptions import KINDS, Excepted
from services.ingest.hook_model import HOOKED
from services.ingest.hooks_shell import HooksShell
from services.ingest.metrics import SessionFigures
from services.ingest.model import AskController, Close, SendAck, SendBye, SendHello, SendLine, Settings
from services.ingest.server import Connection, Server, same
from services.ingest.store import MIGRATIONS, Store

ASK_AGAIN_S = 5.0
GONE = (
    "the sessions with their events and waiting prompts, and facts that others did not have yet (the agents' "
    "conversations are the agents' own files)"
)
NOBODY = "0" * 64  # compared with when there is no such session, so that it takes as long


async def serve(context: Context) -> None:
    """Run until cancelled. Raises `StoreError` or `WorldError`, whose text says what to do."""
    await Shell(context).run()


class Shell:
    """Carries what is heard to the core and effects into the world. ``join_s`` 0: deltas are not joined."""

    def __init__(self, context: Context, *, join_s: float = JOIN_S) -> None:
        self._context = context
        self._join_s = join_s
        self._texts = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._watchdog_online = False  # until it says so: nobody waits for one that is not there
        connection = open_store(context.home.store(context.service), MIGRATIONS, durable=False, gone=GONE)
        self.store = Store(connection)
        config = context.config
        self.sessions = Sessions(
            Settings(
                node=config.node.name,
                keep_ended_s=config.sessions.keep_ended_s,
                max_permission_mode=config.approvals.max_permission_mode,
                resume_when_reset=config.ledger.resume_when_reset,
            )
        )
        self.sessions.load(self.store.records(), self.store.prompts(), self.store.lines())
        self.station = Station(context, connection, keep=self.store.keep, do=self._do)
        self.server = Server(self)
        self.hooks = HooksShell(context, self.sessions, self.station.act)
        self.port = 0
        self._metrics()

    def _metrics(self) -> None:
        registry, sessions = self._context.registry, self.sessions
        registry.register(SessionFigures(sessions, lambda: len(self.server.connections)))
        registry.register(BridgeFigures(sessions))
        self._exceptions = Counter(
            "pointsman_exceptions",
            "What exactly-once does not hold for, by kind (docs/reliability.md)",
            ["kind"],
            registry=registry,
        )
        for kind in KINDS:
            self._exceptions.labels(kind)
        self._refused = Counter(
            "pointsman_ingest_refused",
            "Connections refused before the upgrade",
            ["status"],
            registry=registry,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        station, core, context = self.station, self.sessions, self._context
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            station.act(core.begin(context.now()))
            for row in (t.SESSION_STATE, t.SESSIONS_INDEX):
                context.bus.own(row)  # what else stands there is of a session that is forgotten
            station.on_fact("created", m.SessionCreated, core.created)
            station.on_fact("started", m.AgentStarted, core.started)
            station.on_fact("exited", m.AgentExited, core.exited)
            station.on_fact("answer", m.Answer, core.answered)
            station.on_fact("screen", m.ScreenShows, core.screen_shows)
            station.on_fact("hold", m.BudgetHold, core.held)
            station.on_command(
                t.SESSION_PROMPT, m.Prompt, lambda c, v, now: core.prompt(c, v["session"], now)
            )
            station.on_command(
                t.SESSION_INTERRUPT, m.SessionCommand, lambda c, v, now: core.interrupt(c, v["session"], now)
            )
            station.on_command(
                t.SESSION_SET, m.SetSession, lambda c, v, now: core.change(c, v["session"], now)
            )
            station.on_command(
                t.SESSION_HIBERNATE, m.SessionCommand, lambda c, v, now: core.hibernate(c, v["session"], now)
            )
            station.on_command(
                t.SESSION_WAKE, m.SessionCommand, lambda c, v, now: core.wake(c, v["session"], now)
            )
            station.on_command(t.EVICT_AGENT, m.EvictAgent, lambda c, _, now: core.evict(c, now))
            station.on_message(t.SERVICE_STATUS, self._service_status)
            station.on_message(t.LEDGER_ALLOWANCES, self._allowances)
            station.on_command(
                t.SESSION_REMOVE, m.SessionCommand, lambda c, v, now: core.remove(c, v["session"], now)
            )
            station.on_command(t.SESSION_HISTORY, m.History, self._history)
            station.on_command(t.TOOL_VERDICT, m.ToolVerdict, lambda c, _, now: core.judged(c, now))
            station.on_command(t.END_AGENT, m.EndAgent, lambda c, _, now: core.end_agent(c, now))
            config = context.config
            port = port_for(config, context.home, "ingest", "port")
            self.port = await nursery.start(self.server.run, config.ingest.host, port)
            await nursery.start(self.hooks.run)
            nursery.start_soon(self._tick)
            if self._join_s > 0:
                nursery.start_soon(self._join)
            task_status.started()
            await station.run()

    # what agents do (the server tells)

    def refusal(self, name: str, token_sha256: str, *, bridge: bool) -> int | None:
        """The HTTP status for someone who may not come in; None for who may."""
        known = self.sessions.token_sha256(name)
        token, kind = known or (NOBODY, "")
        status = None
        if not same(token, token_sha256) or known is None:
            status = 401
        elif kind in HOOKED or bridge is not (kind == "managed"):
            status = 403  # the right session's token on the wrong protocol
        if status is not None:
            self._refused.labels(str(status)).inc()
        return status

    def opened(self, name: str, connection: Connection) -> None:
        uid, now = self.sessions.uid(name), self._context.now()
        seen = set() if connection.bridge else self.store.seen(uid)
        self.station.act(
            self.sessions.connected(name, connection.number, now, bridge=connection.bridge, seen=seen)
        )

    def said(self, connection: Connection, lines: list[bytes]) -> None:
        now = self._context.now()
        effects = self.sessions.lines(connection.number, lines, now)
        if effects:
            self.station.act(effects)
        self._deltas(connection, now)

    def heard(self, connection: Connection, message: bw.FromBridge) -> None:
        core, number, now = self.sessions, connection.number, self._context.now()
        if type(message) is bw.Data:
            effects = core.data(number, message, now)
            if effects is None:
                connection.close(1002, "these data do not follow")
            elif effects:
                self.station.act(effects)
            self._deltas(connection, now)
        elif isinstance(message, bw.BridgeHello):
            self.station.act(core.hello(number, message, now))
        elif isinstance(message, bw.Taken):
            self.station.act(core.taken(number, message.n, now))
        elif isinstance(message, bw.Unwritable):
            self.station.act(core.unwritable(number, message.n, message.reason, now))
        elif isinstance(message, bw.Exit):
            self.station.act(core.agent_gone(number, message, now))
        elif isinstance(message, bw.Figures):
            core.measured(number, message)

    def closed(self, connection: Connection) -> None:
        self.station.act(self.sessions.disconnected(connection.number, self._context.now()))

    def misbehaved(self, connection: Connection | None, error: str) -> None:
        name = connection.name if connection is not None else None
        self._context.log.warning("connection ended", session=name, reason=error)
        self._context.errors.labels(code="bad_request").inc()

    def _deltas(self, connection: Connection, now: datetime) -> None:
        connection.talks = self.sessions.waiting(connection.number)
        if connection.talks:
            if self._join_s > 0:
                self._texts.set()
            else:
                self._publish(self.sessions.flush_one(connection.number, now))

    async def room(self) -> None:
        """An agent that talks faster than the broker takes it is held back; the quiet ones are not."""
        await self._context.bus.room()

    # time

    async def _join(self) -> None:
        """Publish the texts that came within ``join_s`` of the first."""
        while True:
            await self._texts.wait()
            await trio.sleep(self._join_s)
            self._texts = trio.Event()
            self._publish(self.sessions.flush(self._context.now()))

    def _publish(self, effects: Iterable[Effect]) -> None:
        publish = self._context.bus.publish
        for effect in effects:
            if isinstance(effect, Publish):
                publish(effect.row, effect.payload, **effect.values)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(INDEX_S)
            now = self._context.now()
            effects = [*self.sessions.tick(now), *self.sessions.ledger_silent(INDEX_S, now)]
            if effects:
                self.station.act(effects)

    # the rest

    def _history(self, command: m.History, values: dict[str, str], now: datetime) -> list[Effect]:
        record = self.sessions.named(values["session"], command.uid).record
        events = self.store.history(record.uid, command.after_seq, command.limit)
        return [ReplyTo(command.id, {"events": events, "last_seq": record.seq})]

    def _do(self, effect: Do) -> None:
        if isinstance(effect, AskController):
            if self._nursery is not None:
                self._nursery.start_soon(self._ask, effect)
            return
        if isinstance(effect, Excepted):
            self._exceptions.labels(effect.kind).inc()
            return
        if self.hooks.do(effect):
            return
        connection = self.server.connections.get(getattr(effect, "link", 0))
        if connection is None:
            return  # it hung up; what matters is kept and said to the next
        if isinstance(effect, SendLine):
            connection.send(
                bw.encode(bw.Line(n=effect.n, data=effect.data)) if connection.bridge else effect.data + "\n"
            )
        elif isinstance(effect, SendHello):
            hello = bw.IngestHello(process=effect.process, offset=effect.offset, figures=True)
            connection.send(bw.encode(hello))
        elif isinstance(effect, SendAck):
            connection.send(bw.encode(bw.Ack(offset=effect.offset)))
        elif isinstance(effect, SendBye):
            connection.send(bw.encode(bw.Bye()))
        elif isinstance(effect, Close):
            if effect.refused:
                connection.send(bw.encode(bw.Refused(reason=effect.reason)))
            connection.close(effect.code, effect.reason)

    async def _ask(self, effect: AskController) -> None:
        """Ask the tmux controller until it answers, with one id."""
        bus = self._context.bus
        if not isinstance(bus, BusBase):
            raise TypeError(f"{type(bus)} cannot ask")
        requester, ask = Requester(bus, by="service-ingest", via="bus"), effect.ask
        refusal = await self._admission(bus, effect) if ask.admit else None
        while refusal is None:
            try:
                if ask.stop:
                    stop = m.StopAgent(
                        id=ask.id, uid=effect.uid, process=ask.process, force=ask.force, reason=ask.reason
                    )
                    await requester.ask(t.STOP_AGENT, stop)
                elif ask.process:
                    spawn = m.SpawnAgent(id=ask.id, uid=effect.uid, process=ask.process, resume=ask.resume)
                    await requester.ask(t.SPAWN_AGENT, spawn)
                else:
                    end = m.SessionCommand(id=ask.id, uid=effect.uid, reason=ask.reason)
                    await requester.ask(t.SESSION_END, end, session=effect.session)
                break
            except BusDownError:
                await trio.sleep(ASK_AGAIN_S)
                continue
            except RefusedError as error:
                if error.code == "unavailable":
                    await trio.sleep(ASK_AGAIN_S)
                    continue
                refusal = error
        self.station.act(self.sessions.controller_answered(effect.uid, ask.id, refusal, self._context.now()))

    async def _admission(self, bus: BusBase, effect: AskController) -> RefusedError | None:
        if not self._watchdog_online:
            return None
        return await admission(bus, self._context.service, effect.session, "wake", f"admit-{effect.ask.id}")

    def _allowances(self, message: Received, now: datetime) -> list[Effect]:
        if not message.payload:
            return []
        word = codec.decode(t.LEDGER_ALLOWANCES, message.payload, m.LedgerAllowances)
        return self.sessions.ledger_said(word, now, retained=message.retained)

    def _service_status(self, message: Received, _now: datetime) -> list[Effect]:
        if message.values["self"] == WATCHDOG:
            self._watchdog_online = message.payload == b"online"
        return []
