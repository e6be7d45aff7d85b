"""The gate in the world: its store, its key, its clock and its place on the bus. Decides nothing."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import trio
from prometheus_client import Counter, Gauge, Histogram

from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.effects import Do, Effect, Keep, ReplyTo
from bus.errors import RefusedError
from services._process.context import Context
from services._process.station import Station
from services._process.store import open_store
from services.approvals import loading
from services.approvals.core import Gate
from services.approvals.custody import Custody
from services.approvals.devices import NO_LIMIT, Devices, Limit, no_device
from services.approvals.foresight import MAX_CALLS as MAX_AHEAD
from services.approvals.keys import Keys
from services.approvals.model import (
    Decided,
    LookAhead,
    NotDecided,
    NoteCall,
    OldKeys,
    Restate,
    Save,
    SaveCalls,
    SavePolicy,
    State,
    Unapproved,
)
from services.approvals.passed import MAX_CALLS, Passed, bounded
from services.approvals.policing import AGAINST
from services.approvals.press import Looks, Standing, press
from services.approvals.replay import Replay
from services.approvals.rules import Rules
from services.approvals.store import MIGRATIONS, Store
from services.approvals.users import approvers
from services.approvals.world import sight

RECHECK_S = 1.0  # expiry goes by the wall clock, which may be set while we sleep
LATENCIES_S = (0.005, 0.02, 0.1, 1, 5, 15, 30, 60, 300, 1800, 14400)  # a rule; a quick person; a long lunch
PERSONS = ("cli", "web", "bus", "device")
WAYS = {  # served from the start: the first one of a new series shows in no rate
    State.APPROVED: (*PERSONS, "policy"),
    State.DENIED: (*PERSONS, "policy", "budget"),
    State.EXPIRED: ("timeout",),
    State.CANCELLED: ("agent", "hook"),
}
MAX_REPLAYED = 20_000  # decisions, the newest ones: some tens of seconds
REPLAY_AT_ONCE = 10
NOTE_CALLS_S = 1.0  # calls that passed are kept together: each by itself would double the commits
GONE = (
    "the audit, remembered decisions, and approvals that waited (their agents wait on: end those sessions, "
    "and open them again with `resume`)"
)


async def serve(context: Context) -> None:
    """Run until cancelled. Raises `StoreError` or `HomeError`, whose text says what to do."""
    await Shell(context).run()


class Shell:
    """Carries events to the gate and its effects into the world."""

    def __init__(self, context: Context, environ: Mapping[str, str] = os.environ) -> None:
        self._context = context
        self._environ = environ
        self._changed = trio.Event()
        self._calls: dict[tuple[str, str], Passed] = {}  # to be kept, see NOTE_CALLS_S; by session and call
        self._noted = trio.Event()
        self._ahead: deque[LookAhead] = deque(maxlen=MAX_AHEAD)  # the oldest gives way
        self._to_look_at = trio.Event()
        self._waiting_changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        connection = open_store(context.home.store(context.service), MIGRATIONS, durable=True, gone=GONE)
        keys = Keys(context.home, context.log.secret)
        self.store = Store(connection, keys.seal)
        users = self.store.users()
        self._standing = Standing()
        self._found = loading.loaded(context.config, environ)
        kept = self.store.policy()
        first = loading.last_good(self._found, kept, environ)
        self._new = first if first.good != kept else None
        self.gate = Gate(
            node=context.config.node.name,
            home=str(context.home.path),
            rules=replace(first.rules, remembered=self.store.remembered()),
            tokens=keys.tokens,
            approvers=approvers(users),
            devices=Devices(users, self._limit, self.store.decided_at()),
            pending=self.store.pending(),
            recall=self.store.find,
            sight=sight(),
        )
        self.station = Station(
            context, connection, keep=self._keep, do=self._do, transact=self.store.transaction
        )
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
        for decision, via, level in ((d, v, level) for d in WAYS for v in WAYS[d] for level in m.LEVELS):
            self._decided.labels(decision, via, level)
        self._refused = Counter(
            "pointsman_decisions_refused", "Decisions that changed nothing", ["code"], registry=registry
        )
        self._unapproved = Counter(
            "pointsman_unapproved_tools",
            "Tools that ran against a decision, or without one",
            ["state"],
            registry=registry,
        )
        for state in AGAINST:
            self._unapproved.labels(state)  # an alert on a series that is not there would never come
        self._latency = Histogram(
            "pointsman_approval_latency_seconds",
            "From the question to its decision",
            ["via"],
            buckets=LATENCIES_S,
            registry=registry,
        )
        for via in {via for vias in WAYS.values() for via in vias}:
            self._latency.labels(via)

    async def run(self) -> None:
        station, gate = self.station, self.gate
        self._custody.begin()
        now = self._context.now()
        station.act(gate.tick(now))  # what expired while nobody was here
        if self._found.mistakes:
            station.act(self._rejected(self._found, now, "start"))
        elif self._new is not None:
            if self._new.good.rules or self.store.policy() is not None:
                station.act(gate.adopt(self._new.rules, self._new.good, now, "start"))
            else:  # there never were any: nothing to tell
                station.act([SavePolicy(self._new.good)])
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
        station.on_fact("unapproved", m.ToolUnapproved, gate.ran)
        station.on_fact("over", m.SessionOver, gate.over)
        station.on_command(t.JUDGE_TOOL, m.JudgeTool, lambda command, _, now: gate.judge(command, now))
        station.on_command(t.POLICY, m.PolicyCommand, self._policy)
        async with trio.open_nursery() as nursery:
            self._custody.register(nursery)
            nursery.start_soon(self._custody.run)
            self._nursery = nursery
            nursery.start_soon(self._watch_the_clock)
            nursery.start_soon(self._reload_on_signal)
            nursery.start_soon(self._note_calls)
            nursery.start_soon(self._look_ahead)
            nursery.start_soon(self._restate)
            await station.run()

    def _decide(self, command: m.Decision, values: dict[str, str], now: datetime) -> list[Effect]:
        return self.gate.decide(command, values["id"], now)

    def _admit(self, fact: m.Fact, users: m.BusUsers, now: datetime) -> list[Effect]:
        if any(user.role == "device" for user in users.users):
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
        found = self._found.devices.get(device)
        return NO_LIMIT if found is None else Limit(found.max_level, found.oldest)

    def _show(self, command: m.ShowApproval, values: dict[str, str], now: datetime) -> list[Effect]:
        return self.gate.show(command, values["id"], now)

    # the policy

    def _policy(self, command: m.PolicyCommand, values: dict[str, str], now: datetime) -> list[Effect]:
        verb = values["verb"]
        if verb == "rules":
            return [ReplyTo(command.id, self.gate.policy())]
        if verb == "explain":
            return [ReplyTo(command.id, self.gate.explain(command))]
        if verb == "forget":
            return self.gate.forget(command, now)
        if verb == "reload":
            return self._reload(now, command.by or "command", command.id)
        if verb == "check":
            return [ReplyTo(command.id, self._checked(loading.read(self._environ, _text(command))))]
        if verb == "replay":
            found = loading.read(self._environ, command.toml)
            if found.mistakes:
                raise RefusedError("bad_request", "\n".join(found.mistakes))
            assert self._nursery is not None  # noqa: S101  # we run in it
            self._nursery.start_soon(self._replay, command, found.rules)
            return []
        raise RefusedError(
            "bad_request", f"the policy has no verb {verb!r}: one of {', '.join(t.POLICY.verbs)}"
        )

    def _checked(self, found: loading.Loaded) -> dict[str, object]:
        warnings = [] if found.mistakes else found.warnings(self.gate.approvers)
        return {
            "ok": not found.mistakes,
            "rules": len(found.rules.rules),
            "mistakes": list(found.mistakes),
            "warnings": warnings,
        }

    def _reload(self, now: datetime, by: str, request_id: str | None = None) -> list[Effect]:
        """All of the new policy, or none of it."""
        found = loading.read(self._environ)
        result = self._checked(found)
        if found.mistakes:
            text = "\n".join(found.mistakes)
            error = RefusedError("bad_request", f"the rules in force stay: {text}", result)
            return [*self._rejected(found, now, by), ReplyTo(request_id, error=error)]
        self._found = found
        self.gate.devices.limited(self._limit)
        effects = self.gate.adopt(found.rules, found.good, now, by)
        self._context.log.info("policy loaded", rules=len(found.rules.rules), by=by)
        return [*effects, ReplyTo(request_id, result)]

    def _rejected(self, found: loading.Loaded, now: datetime, by: str) -> list[Effect]:
        self._context.log.error("policy rejected, the last good one stays", mistakes=found.mistakes, by=by)
        return self.gate.rejected("\n".join(found.mistakes), now, by)

    async def _reload_on_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                effects = self._reload(self._context.now(), "SIGHUP")
                self.station.act(e for e in effects if not isinstance(e, ReplyTo))

    async def _replay(self, command: m.PolicyCommand, rules: Rules) -> None:
        """Newest first, and with pauses: approvals go on meanwhile."""
        replay = Replay(replace(rules, remembered=self.store.remembered()), self.gate.hurried)
        since = command.since.astimezone(UTC) if command.since is not None else None
        found = self.store.past(since, None, REPLAY_AT_ONCE)
        while found:
            replay.look(approval for _, approval in found)
            await trio.lowlevel.checkpoint()
            number, last = found[-1]
            if replay.looked_at >= MAX_REPLAYED:
                since = last.created_at  # of calls before it, who knows which were asked about after all
                break
            found = self.store.past(since, number, REPLAY_AT_ONCE)
        self._keep_calls()
        before: int | None = None
        while passed := self.store.passed(since, before, REPLAY_AT_ONCE):
            before = passed[-1][0]
            replay.look_at_calls(call for _, call in passed)
            await trio.lowlevel.checkpoint()
        self.station.act([ReplyTo(command.id, replay.result())])

    async def _note_calls(self) -> None:
        while True:
            await self._noted.wait()
            await trio.sleep(NOTE_CALLS_S)
            self._keep_calls()

    async def _look_ahead(self) -> None:
        """One call after the other, so that what has come meanwhile is dealt with in between."""
        while True:
            await self._to_look_at.wait()
            self._to_look_at = trio.Event()
            while self._ahead:
                self.gate.look_ahead(self._ahead.popleft(), self._context.now())
                await trio.lowlevel.checkpoint()

    async def _restate(self) -> None:
        while True:
            await self._waiting_changed.wait()
            self._waiting_changed = trio.Event()
            self.station.act(self.gate.restated())

    def _keep_calls(self) -> None:
        self._noted = trio.Event()
        calls, self._calls = self._calls, {}
        kept = tuple(call for call in map(bounded, calls.values()) if call is not None)
        if kept:
            self.station.act([SaveCalls(kept)])

    # effects

    def _keep(self, effect: Keep) -> None:
        self.store.keep(effect)
        if isinstance(effect, Save):
            self._custody.kept(effect.approval)
            if effect.new:  # it is kept as an approval
                self._calls.pop((effect.approval.uid, effect.approval.tool_use_id or ""), None)
            self._changed.set()

    def _do(self, effect: Do) -> None:
        if isinstance(effect, Decided):
            self._decided.labels(effect.decision, effect.via, effect.level).inc()
            self._latency.labels(effect.via).observe(effect.latency_s)
            self._custody.drop_old_keys()
        elif isinstance(effect, OldKeys):
            self._custody.drop_old_keys()
        elif isinstance(effect, NoteCall):
            if len(self._calls) < MAX_CALLS:
                self._calls[effect.call.uid, effect.call.tool_use_id or effect.call.id] = effect.call
                self._noted.set()
        elif isinstance(effect, LookAhead):
            self._ahead.append(effect)
            self._to_look_at.set()
        elif isinstance(effect, Restate):
            self._waiting_changed.set()
        elif isinstance(effect, NotDecided):
            self._refused.labels(effect.code).inc()
        elif isinstance(effect, Unapproved):
            self._unapproved.labels(effect.state).inc()

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


def _text(command: m.PolicyCommand) -> str:
    if command.toml is None:
        raise RefusedError("bad_request", "`check` takes `toml`: the text of a configuration file")
    return command.toml
