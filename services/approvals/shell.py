"""The gate in the world: its store, its key, its clock and its place on the bus. Decides nothing."""

from __future__ import annotations

from datetime import datetime

import trio
from prometheus_client import Counter, Gauge, Histogram

from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.effects import Do, Effect, Keep
from services._process.context import Context
from services._process.station import Station
from services._process.store import open_store
from services.approvals.core import Gate
from services.approvals.custody import Custody
from services.approvals.devices import NO_LIMIT, Devices, Limit, no_device
from services.approvals.keys import Keys
from services.approvals.model import Decided, NotDecided, OldKeys, Save
from services.approvals.press import Looks, Standing, press
from services.approvals.rules import Rules
from services.approvals.store import MIGRATIONS, Store
from services.approvals.users import approvers
from services.approvals.world import sight

RECHECK_S = 1.0  # expiry goes by the wall clock, which may be set while we sleep
LATENCIES_S = (0.005, 0.02, 0.1, 1, 5, 15, 30, 60, 300, 1800, 14400)  # a rule; a quick person; a long lunch


async def serve(context: Context) -> None:
    """Run until cancelled. Raises `StoreError` or `HomeError`, whose text says what to do."""
    await Shell(context).run()


class Shell:
    """Carries events to the gate and its effects into the world."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._changed = trio.Event()
        connection = open_store(context.home.store(context.service), MIGRATIONS, durable=True)
        keys = Keys(context.home, context.log.secret)
        self.store = Store(connection, keys.seal)
        config = context.config.approvals
        users = self.store.users()
        self._standing = Standing()
        self.gate = Gate(
            node=context.config.node.name,
            home=str(context.home.path),
            rules=Rules(frozenset(config.auto_approve), config.timeout_for),
            tokens=keys.tokens,
            approvers=approvers(users),
            devices=Devices(users, self._limit, self.store.decided_at()),
            pending=self.store.pending(),
            recall=self.store.find,
            sight=sight(),
        )
        self.station = Station(context, connection, keep=self._keep, do=self._do)
        self._custody = Custody(context, self.store, keys, self.gate, self.station)
        self._metrics()

    def _metrics(self) -> None:
        registry = self._context.registry
        waiting = Gauge(
            "pointsman_approvals_pending", "Approvals that wait for a decision", registry=registry
        )
        waiting.set_function(lambda: self.gate.count)
        self._decided = Counter(
            "pointsman_approvals", "Approvals decided", ["decision", "via", "level"], registry=registry
        )
        self._refused = Counter(
            "pointsman_decisions_refused", "Decisions that changed nothing", ["code"], registry=registry
        )
        self._latency = Histogram(
            "pointsman_approval_latency_seconds",
            "From the question to its decision",
            ["via"],
            buckets=LATENCIES_S,
            registry=registry,
        )

    async def run(self) -> None:
        station, gate = self.station, self.gate
        self._custody.begin()
        station.act(gate.tick(self._context.now()))  # what expired while nobody was here
        station.act(gate.snapshots())
        for row in (t.APPROVAL_REQUEST, t.APPROVAL_TOKEN, t.APPROVALS_PENDING, t.DEVICE_PENDING):
            self._context.bus.own(row)  # what else stands there is of an approval that is decided
        station.on_fact("question", m.Question, gate.question)
        station.on_fact("withdrawn", m.QuestionWithdrawn, gate.withdrawn)
        station.on_fact("forbidden", m.QuestionForbidden, gate.forbidden)
        station.on_fact("applied", m.AnswerApplied, gate.applied)
        station.on_fact("users", m.BusUsers, self._admit)
        station.on_message(t.DEVICE_APPROVE, self._press)
        station.on_message(t.DEVICE_DENY, self._press)
        station.on_connected(self._connected)
        station.on_command(t.APPROVAL_DECISION, m.Decision, self._decide)
        station.on_command(t.APPROVAL_SHOW, m.ShowApproval, self._show)
        async with trio.open_nursery() as nursery:
            self._custody.register(nursery)
            nursery.start_soon(self._custody.run)
            nursery.start_soon(self._watch_the_clock)
            await station.run()

    def _decide(self, command: m.Decision, values: dict[str, str], now: datetime) -> list[Effect]:
        return self.gate.decide(command, values["id"], now)

    def _admit(self, fact: m.Fact, users: m.BusUsers, now: datetime) -> list[Effect]:
        for row in (t.DEVICE_APPROVE, t.DEVICE_DENY):
            self._context.bus.look_again(row)  # what stands where a device comes from now on
        return self.gate.admit(fact, users, now)

    def _press(self, message: Received, now: datetime) -> list[Effect]:
        if message.values["device"] not in self.gate.devices:
            if not message.retained:
                self.station.report(no_device(message.values["device"]), message.topic)
            return []
        looks = self._standing.look(message, now)
        if looks is Looks.CLEARING or (looks is Looks.PRESS and message.payload):
            self._context.bus.look_again(message.row)  # may it have come to stay?
        return press(self.gate, message, looks, now)

    def _connected(self, _now: datetime) -> list[Effect]:
        self._standing.connected()
        return []

    def _limit(self, device: str) -> Limit:
        found = self._context.config.devices.get(device)
        return NO_LIMIT if found is None else Limit(found.max_level, found.oldest)

    def _show(self, command: m.ShowApproval, values: dict[str, str], now: datetime) -> list[Effect]:
        return self.gate.show(command, values["id"], now)

    def _keep(self, effect: Keep) -> None:
        self.store.keep(effect)
        if isinstance(effect, Save):
            self._custody.kept(effect.approval)
            self._changed.set()

    def _do(self, effect: Do) -> None:
        if isinstance(effect, Decided):
            self._decided.labels(effect.decision, effect.via, effect.level).inc()
            self._latency.labels(effect.via).observe(effect.latency_s)
            self._custody.drop_old_keys()
        elif isinstance(effect, OldKeys):
            self._custody.drop_old_keys()
        elif isinstance(effect, NotDecided):
            self._refused.labels(effect.code).inc()

    async def _watch_the_clock(self) -> None:
        """Sleeps until the next expiry, at most `RECHECK_S`; while nothing expires, until a change."""
        while True:
            self._changed = trio.Event()
            now = self._context.now()
            self.station.act(self.gate.tick(now))
            due = self.gate.next_expiry()
            if due is None:
                await self._changed.wait()
                continue
            with trio.move_on_after(min(RECHECK_S, max(0.0, (due - now).total_seconds()))):
                await self._changed.wait()
