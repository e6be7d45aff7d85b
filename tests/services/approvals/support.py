"""A gate over a real store in memory, with a clock of its own, for tests of the core."""

from __future__ import annotations

import enum
import posixpath
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.durable import Mailbox
from bus.effects import Effect, Keep, Post, Publish, ReplyTo
from bus.topics import Topic
from services.approvals.audit import Seal
from services.approvals.core import Gate
from services.approvals.danger.sight import BLIND, Sight
from services.approvals.devices import NO_LIMIT, Devices, Limit
from services.approvals.model import Approval, Approver, GoodPolicy, LookAhead, Restate
from services.approvals.policy import compile_rules
from services.approvals.press import Looks, press
from services.approvals.rules import Rules, Verdict
from services.approvals.store import MIGRATIONS, Store
from services.approvals.tokens import Tokens
from services.approvals.users import approvers
from services.approvals.world import sight as world_sight

START = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
UID = "01JD0000000000000000000000"
KEY = b"k" * 32
HOME = "/home/ada/.local/state/pointsman"


def timeout_for(kind: str, level: str) -> float | None:
    return 60.0 if kind == "tool" else None


RULES = Rules(("Read", "Glob", "Grep"), timeout_for)


def policy(*tables: dict[str, Any], auto_approve: Sequence[str] = (), **more: Any) -> Rules:
    """Rules as they stand in a configuration."""
    rules, mistakes = compile_rules(tables, "/home/ada")
    assert mistakes == []
    return Rules(auto_approve, timeout_for, rules, **more)


SIGHT = replace(world_sight(), resolve=posixpath.normpath, user_home="/home/ada")
"""shfmt, on a machine without symbolic links."""


class Crash(enum.Enum):
    """When the process is killed: never, before a transaction's commit, or right after it."""

    NONE = enum.auto()
    BEFORE = enum.auto()
    AFTER = enum.auto()


class World:
    """The gate and everything around it. ``said`` are the effects since the last `forget`."""

    def __init__(
        self,
        *,
        rules: Rules = RULES,
        approvers: Sequence[Approver] = (Approver("operator"),),
        keys: Sequence[bytes] = (KEY,),
        limit: Callable[[str], Limit] = lambda _device: NO_LIMIT,
        sight: Sight = BLIND,
    ) -> None:
        self.sight = sight
        self.now = START
        self.rules = rules
        self.approvers = approvers
        self.keys = keys
        self.limit = limit
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        for sql in MIGRATIONS:
            self.db.executescript(sql)
        Mailbox.create_tables(self.db)
        self.store = Store(self.db, Seal(keys))
        self.store.chain.seal_anew()
        self.mailbox = Mailbox(self.db)
        self.said: list[Effect] = []
        self.crash = Crash.NONE
        self.restart()

    def restart(self) -> None:
        """A crash: what the gate held is gone, what was kept is not."""
        them = self.store.users()
        self.gate = Gate(
            node="node",
            home=HOME,
            rules=replace(self.rules, remembered=self.store.remembered()),
            tokens=Tokens(self.keys),
            approvers=[*self.approvers, *approvers(them)[1:]],
            devices=Devices(them, self.limit, self.store.decided_at()),
            pending=self.store.pending(),
            recall=self.store.find,
            sight=self.sight,
        )

    def act(self, effects: Iterable[Effect]) -> list[Effect]:
        decided = list(effects)
        if any(isinstance(effect, Restate) for effect in decided):
            decided += self.gate.restated()
        if self.crash is Crash.BEFORE:
            return []
        with self.store.transaction():
            for effect in decided:
                if isinstance(effect, Keep):
                    self.store.keep(effect)
                elif isinstance(effect, Post):
                    self.mailbox.post(effect.owner, effect.fact)
        self.said += decided
        for effect in decided:
            if isinstance(effect, LookAhead):
                self.gate.look_ahead(effect, self.now)
        return decided

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # events

    def ask(self, approval: str = "a1", input_json: str = '{"command":"make"}', **more: Any) -> list[Effect]:
        q = question(approval, input_json, **more)
        return self.act(self.gate.question(fact(f"question-{approval}", "question", q), q, self.now))

    def judge(
        self, request_id: str = "h1", input_json: str = '{"command":"make"}', **more: Any
    ) -> list[Effect]:
        """The hook callback of a tool call."""
        return self.act(self.gate.judge(hook(request_id, input_json, **more), self.now))

    def adopt(self, rules: Rules) -> list[Effect]:
        """The configuration is loaded again."""
        good = GoodPolicy(rules=(), auto_approve=tuple(rules.auto_approve))
        self.rules = rules
        return self.act(self.gate.adopt(rules, good, self.now, "test"))

    def withdraw(self, approval: str = "a1") -> list[Effect]:
        w = m.QuestionWithdrawn(approval=approval, reason="interrupted")
        return self.act(self.gate.withdrawn(fact("w", "withdrawn", w), w, self.now))

    def forbid(self, approval: str = "a1") -> list[Effect]:
        f = m.QuestionForbidden(approval=approval, reason="web has spent it all")
        return self.act(self.gate.forbidden(fact("f", "forbidden", f), f, self.now))

    def apply(self, approval: str = "a1", applied: bool = True) -> list[Effect]:
        a = m.AnswerApplied(approval=approval, applied=applied)
        return self.act(self.gate.applied(fact("p", "applied", a), a, self.now))

    def tick(self) -> list[Effect]:
        return self.act(self.gate.tick(self.now))

    def decide(self, approval: str = "a1", decision: str = "approve", **more: Any) -> list[Effect]:
        """With the operator's token unless ``token`` or ``user`` says otherwise."""
        user = more.pop("user", "operator")
        if "token" not in more:
            more["token"] = self.token(approval, user)
        d = msgspec.convert({"id": "c1", "decision": decision, **more}, m.Decision)
        return self.act(self.gate.decide(d, approval, self.now))

    def admit(self, *users: m.BusUser) -> list[Effect]:
        """The broker service tells who its users are now."""
        told = m.BusUsers(users=list(users))
        return self.act(self.gate.admit(fact("u", "users", told), told, self.now))

    def press(self, device: str, payload: str = "", row: Topic = t.DEVICE_APPROVE) -> m.DeviceReply:
        """A device's message; returns its reply."""
        (reply,) = published(self.pressed(device, payload, row), t.DEVICE_REPLY)
        assert isinstance(reply, m.DeviceReply)
        return reply

    def pressed(self, device: str, payload: str, row: Topic) -> list[Effect]:
        message = Received(row, {"device": device}, payload.encode(), False, row.path(device=device), "node")
        return self.act(press(self.gate, message, Looks.PRESS, self.now))

    def show(self, approval: str = "a1") -> m.ApprovalRequest:
        (reply,) = self.gate.show(m.ShowApproval(id="s1"), approval, self.now)
        assert isinstance(reply, ReplyTo)
        assert isinstance(reply.result, m.ApprovalRequest)
        return reply.result

    # what is known

    def approval(self, approval: str = "a1") -> Approval:
        found = self.store.find(approval)
        assert found is not None
        return found

    def token(self, approval: str = "a1", user: str = "operator") -> str:
        found = self.store.find(approval)
        if found is None:
            return "operator.none"
        return Tokens(self.keys).issue(user, found.id, found.uid, found.input_sha256, found.expires_at)

    def answers(self, approval: str = "a1") -> list[m.Answer]:
        """Those in the outbox; one at most, by the fact's id."""
        rows = self.db.execute("SELECT payload FROM outbox WHERE id = ?", (f"answer-{approval}",)).fetchall()
        facts = [msgspec.json.decode(row[0], type=m.Fact) for row in rows]
        return [msgspec.json.decode(f.data, type=m.Answer) for f in facts]

    def audited(self, action: str = "decision") -> list[dict[str, Any]]:
        return [msgspec.json.decode(row.data) for row in self.store.audit_rows() if row.action == action]


def question(approval: str = "a1", input_json: str = '{"command":"make"}', **more: Any) -> m.Question:
    fields: dict[str, Any] = {
        "approval": approval,
        "session": "web",
        "process": 1,
        "request_id": f"r-{approval}",
        "kind": "tool",
        "tool": "Bash",
        "tool_use_id": f"toolu_{approval}",
        "agent_id": None,
        "input_json": input_json,
        "description": "",
        "cwd": "/work/app",
        "permission_mode": "default",
        "suggestions": [],
        "auto_approve": [],
    }
    return m.Question(**{**fields, **more})


def hook(request_id: str = "h1", input_json: str = '{"command":"make"}', **more: Any) -> m.JudgeTool:
    """What ingest asks about a call that `question` would be about."""
    q = question("a", input_json, **more)
    same = [name for name in m.JudgeTool.__struct_fields__ if name in m.Question.__struct_fields__]
    fields = {name: getattr(q, name) for name in same}
    return m.JudgeTool(**{**fields, "uid": UID, "request_id": request_id})


def fact(fact_id: str, fact_type: str, data: m.Payload, uid: str | None = UID) -> m.Fact:
    return m.Fact(id=fact_id, type=fact_type, uid=uid, at=START, data=codec.encode_data(data))


def published(effects: Iterable[Effect], row: Topic) -> list[Any]:
    """Payloads for a row, None where it was cleared."""
    return [e.payload for e in effects if isinstance(e, Publish) and e.row is row]


def error(effects: Iterable[Effect]) -> str | None:
    """The code of the error reply, None when there is none."""
    for effect in effects:
        if isinstance(effect, ReplyTo) and effect.error is not None:
            return effect.error.code
    return None


def result(effects: Iterable[Effect]) -> Any:
    return next(e.result for e in effects if isinstance(e, ReplyTo) and e.error is None)


def user(
    name: str, role: str = "approver", max_level: str | None = "critical", since: str = "s1"
) -> m.BusUser:
    return m.BusUser(user=name, role=role, max_level=max_level, since=since)


class TwoYes(Rules):
    """Everything needs two different approvers."""

    def judge(self, *args: Any, **more: Any) -> Verdict:
        return Verdict("ask", required=2)
