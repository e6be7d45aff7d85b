"""The tmux controller on the bus: its store, its handlers, and the loop that looks at the world."""

from __future__ import annotations

import os
import secrets
import sqlite3
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime

import msgspec
import trio
from prometheus_client import Gauge
from ulid import ULID

from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.base import BusBase
from bus.codec import decode, decode_text
from bus.effects import Do, Keep, ReplyTo
from bus.errors import RefusedError
from services._process.admission import WATCHDOG, admission
from services._process.context import Context
from services._process.errors import HomeError
from services._process.station import Effects, Station
from services._process.store import open_store
from services.tmux import screen
from services.tmux.core import Core
from services.tmux.model import (
    Check,
    Clear,
    CloseWindow,
    EndOrphan,
    Forget,
    Open,
    Pane,
    Record,
    Save,
    Signal,
    State,
    Wake,
)
from services.tmux.orphans import EVERY_S, ORPHAN_S, Orphans
from services.tmux.steps import OWNER
from services.tmux.world import TmuxError, World

MIGRATIONS = ("CREATE TABLE sessions (uid TEXT PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID",)
STARTING = frozenset({"starting", "disconnected", "waking"})  # its first hook has not come yet
LOOK_EVERY_S = 1.0
GONE = "which agents and windows are ours: those that it does not know are ended"
LOOK_BUSY_S = 0.1  # while a person waits for a session to open or end


async def serve(context: Context) -> None:
    """Run the service until cancelled."""
    connection = open_store(context.home.store("tmux"), MIGRATIONS, durable=False, gone=GONE)
    try:
        await Controller(context, connection, os.environ).run()
    finally:
        connection.close()


class Controller(Station):
    """The service: commands and facts by `Station`, and a loop that looks at the world and puts it right."""

    def __init__(self, context: Context, connection: sqlite3.Connection, environ: Mapping[str, str]) -> None:
        super().__init__(context, connection, keep=self._keep_effect, do=self._do_effect)
        self._connection = connection
        rows = connection.execute("SELECT record FROM sessions ORDER BY uid").fetchall()
        records = [msgspec.json.decode(row[0], type=Record) for row in rows]
        config = context.config
        self.core = Core(config.node.name, config.approvals.max_permission_mode, records)
        self.world = World(
            context.home,
            environ,
            config.node.name,
            config.agent.claude,
            config.ingest.port,
            config.ingest.hooks_port,
        )
        for record in records:
            context.log.secret(record.token)
        self._orphans = Orphans(context.home)
        self._todo: list[Do] = []
        self._checks: list[str] = []
        self._types: list[m.TypeText] = []
        self._wake = trio.Event()
        self._ingest_online = True  # until its status says otherwise
        self._watchdog_online = False  # until it says so: nobody waits for one that is not there
        self._status: dict[str, str] = {}  # session → status, for the hints
        self._hints: dict[str, str] = {}  # pane → hint shown
        self._problem = ""
        self.on_command(t.SESSION_CREATE, m.CreateSession, self._on_create)
        self.on_command(t.SESSION_END, m.SessionCommand, self._on_end)
        self.on_command(t.SPAWN_AGENT, m.SpawnAgent, lambda command, _, now: self.core.spawn(command, now))
        self.on_command(t.STOP_AGENT, m.StopAgent, lambda command, _, now: self.core.stop(command, now))
        self.on_command(t.TYPE_TEXT, m.TypeText, self._on_type)
        self.on_message(t.SERVICE_STATUS, self._on_status)
        self.on_message(t.SESSION_STATE, self._on_state)
        self._gauge = Gauge(
            "pointsman_tmux_sessions", "Sessions by state here", ["state"], registry=context.registry
        )

    # what comes from the bus

    def _on_create(self, command: m.CreateSession, _values: dict[str, str], now: datetime) -> Effects:
        uid, token = str(ULID.from_datetime(now)), secrets.token_urlsafe(32)
        self.context.log.secret(token)
        return self.core.create(command, uid, token, str(uuid.uuid4()), now)

    def _on_end(self, command: m.SessionCommand, values: dict[str, str], now: datetime) -> Effects:
        return self.core.end(command, values["session"], now)

    def _on_type(self, command: m.TypeText, _values: dict[str, str], _now: datetime) -> Effects:
        self.core.typing(command)
        self._types.append(command)
        self._wake.set()
        return ()

    def _on_status(self, message: Received, _now: datetime) -> Effects:
        if message.values["self"] == WATCHDOG:
            self._watchdog_online = message.payload == b"online"
        if message.values["self"] != OWNER:
            return ()
        online = decode_text(message.payload) != "offline"
        if online is not self._ingest_online:
            self._ingest_online = online
            self._wake.set()
        return ()

    def _on_state(self, message: Received, _now: datetime) -> Effects:
        if message.payload:
            state = decode(t.SESSION_STATE, message.payload, m.SessionState)
            self._status[state.session] = state.status
        else:
            self._status.pop(message.values["session"], None)
        return ()

    def fact_kept(self, fact_id: str) -> Effects:
        return self.core.fact_kept(fact_id, self.context.now())

    def fact_refused(self, refused: m.Refused) -> Effects:
        return self.core.fact_refused(refused, self.context.now())

    # what the core asks for

    def _keep_effect(self, effect: Keep) -> None:
        if isinstance(effect, Save):
            self._connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?)",
                (effect.record.uid, msgspec.json.encode(effect.record)),
            )
        elif isinstance(effect, Forget):
            self._connection.execute("DELETE FROM sessions WHERE uid = ?", (effect.uid,))

    def _do_effect(self, effect: Do) -> None:
        if isinstance(effect, Check):
            self._checks.append(effect.uid)
        elif not isinstance(effect, Wake):
            self._todo.append(effect)
        self._wake.set()

    # the loop

    async def run(self) -> None:
        """Serve until cancelled."""
        rows = self._connection.execute("SELECT id, code, message FROM refused WHERE owner = ?", (OWNER,))
        refused = {row[0]: m.Refused(id=row[0], code=row[1], message=row[2]) for row in rows.fetchall()}
        self.act(self.core.resume(refused, self.context.now()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            nursery.start_soon(self._look_for_orphans)
            while True:
                while self._checks:
                    nursery.start_soon(self._check, self._checks.pop())
                while self._types:
                    nursery.start_soon(self._type, self._types.pop(0))
                await self._look()
                with trio.move_on_after(LOOK_BUSY_S if self.core.busy else LOOK_EVERY_S):
                    await self._wake.wait()
                self._wake = trio.Event()

    async def _check(self, uid: str) -> None:
        record = self.core.records.get(uid)
        if record is None:
            return
        found = await self.world.check(record.asked.cwd)
        refusal = await self._admission(record)
        if refusal is not None:
            details = refusal.details if isinstance(refusal.details, dict) else {}
            found = msgspec.structs.replace(
                found, breaker_open=refusal.message, retry_at=details.get("retry_at")
            )
        self.act(self.core.checked(uid, found, self.context.now()))

    async def _admission(self, record: Record) -> RefusedError | None:
        """Asked anew for each look at a session that is to be opened."""
        if not self._watchdog_online or not isinstance(self.bus, BusBase):
            return None
        return await admission(self.bus, self.context.service, record.session, "create", str(ULID()))

    async def _type(self, command: m.TypeText) -> None:
        """Type into a screen, and say whether it took it."""
        problem: str | None
        try:
            record = self.core.typing(command)
            panes = [pane for pane in await self.world.panes() if pane.uid == record.uid and not pane.dead]
            if not panes:
                problem = "its window is not there"
            elif command.key is not None:
                await self.world.interrupt(panes[0].pane)
                problem = None
            else:
                problem = await self.world.type(panes[0].pane, record.uid, command.text or "")
        except (RefusedError, TmuxError, HomeError) as error:
            problem = str(error)
        refused = None if problem is None else RefusedError("busy", problem)
        self.act([ReplyTo(command.id, {}, refused)])

    async def _look_at_screens(self, panes: Iterable[Pane]) -> None:
        """Dialogs that keep interactive sessions from starting: the one about trust is answered where that
        was asked for, one key at a look; of any other the user is told.
        """
        for pane in panes:
            record = self.core.records.get(pane.uid)
            if record is None or record.asked.kind != "interactive" or record.state is not State.RUNNING:
                continue
            if pane.dead or self._status.get(record.session) not in STARTING:
                continue
            try:
                found = screen.dialog(await self.world.screen(pane.pane))
                key = screen.trust_key(found) if found is not None and record.asked.trust else None
                if key is not None:
                    self.context.log.info("trust dialog", session=record.session, key=key)
                    await self.world.press(pane.pane, key)
            except TmuxError:
                continue  # it has just gone
            if found is not None and key is None:
                message = screen.waits_at(found, record.session, record.asked.cwd)
                effects = self.core.screen_shows(record, message, self.context.now())
                if effects:
                    self.act(effects)

    async def _look(self) -> None:
        """Look at the world, decide, and do it; one thing at a time."""
        try:
            panes = await self.world.panes()
        except (TmuxError, HomeError) as error:
            self._tell_problem(str(error))
            panes = []  # windows there may be, but none that can be used: the sessions themselves go on
        else:
            self._tell_problem("")
        seen = self.world.look(self.core.records.values(), panes)
        self.act(self.core.look(seen, self.context.now(), ingest_online=self._ingest_online))
        while self._todo:
            await self._perform(self._todo.pop(0))
        await self._look_at_screens(panes)
        await self._show_hints(panes)
        for state in State:
            count = sum(record.state is state for record in self.core.records.values())
            self._gauge.labels(state=state.value).set(count)

    def _tell_problem(self, text: str) -> None:
        if text != self._problem:
            self._problem = text
            if text:
                self.context.log.warning("tmux cannot be used", reason=text)
            else:
                self.context.log.info("tmux can be used again")

    async def _perform(self, effect: Do) -> None:
        now = self.context.now
        log = self.context.log
        if isinstance(effect, Open):
            record = self.core.records.get(effect.uid)
            if record is None or record.process != effect.process:
                return
            try:
                await self.world.open(record, effect.pane)
            except (TmuxError, OSError, HomeError) as error:
                log.warning("the window could not be opened", session=record.session, reason=str(error))
                self.act(self.core.open_failed(effect.uid, effect.process, str(error), now()))
            else:
                log.info("window opened", session=record.session, uid=effect.uid, process=effect.process)
                self.act(self.core.opened(effect.uid, effect.process, now()))
        elif isinstance(effect, Signal):
            sent = self.world.signal(effect.uid, effect.process, effect.name)
            log.info("agent signalled", uid=effect.uid, process=effect.process, signal=effect.name, sent=sent)
        elif isinstance(effect, CloseWindow):
            await self.world.close(effect.window_session)
        elif isinstance(effect, Clear | EndOrphan):
            if isinstance(effect, EndOrphan):
                log.warning("ending what no record knows", uid=effect.uid)
                self.world.end_orphan(effect.uid)
            await self.world.clear(effect.uid, effect.window_session)
            if isinstance(effect, EndOrphan) and not self.world.folder(effect.uid).exists():
                self._tell_orphan(f"window or directory of {effect.uid}, which no record knows")
            self._wake.set()

    async def _look_for_orphans(self) -> None:
        """At the start, and every few minutes; again soon when there is something to be looked at twice."""
        while True:
            records = {record.uid: record.process for record in self.core.records.values()}
            for orphan in self._orphans.look(records, trio.current_time()):
                what = f"{orphan.what} (pid {orphan.process[0]}) of {orphan.uid}, which no record knows"
                if self._orphans.end(orphan):
                    self._tell_orphan(what)
            for path in self._orphans.half_written(self.context.now().timestamp()):
                self._tell_orphan(f"half-written file {path.name}")
            await trio.sleep(ORPHAN_S + 1 if self._orphans.suspects else EVERY_S)

    def _tell_orphan(self, what: str) -> None:
        self.context.log.warning("orphan removed", what=what)
        self.bus.publish(t.ORPHAN_REMOVED, m.OrphanRemoved(reason=what))

    async def _show_hints(self, panes: Iterable[Pane]) -> None:
        """What the session is doing, in its window's status line and title."""
        sessions = {record.uid: record.session for record in self.core.records.values()}
        wanted = {
            pane.pane: self._status.get(sessions.get(pane.uid, ""), "").replace("_", " ")
            for pane in panes
            if sessions.get(pane.uid, "") in self._status
        }
        changed = {pane: hint for pane, hint in wanted.items() if self._hints.get(pane) != hint}
        if changed:
            with suppress(TmuxError):  # a pane that has just gone: its hint does not matter
                await self.world.hint(changed)
        self._hints = wanted
