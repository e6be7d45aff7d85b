"""The command against stand-ins for the owners on a memory bus: what it sends, what it shows, how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.base import BusBase
from bus.errors import RefusedError
from bus.memory import MemoryBroker
from services import SERVICES
from services._process.config_keys import Config
from services._process.home import Home
from services.cli.__main__ import run

Answer = Callable[[dict[str, Any], dict[str, str]], Any]
NOW = datetime.now(UTC)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


@dataclass
class Stage:
    """Owners, a home, and the command."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    broker: MemoryBroker = field(default_factory=MemoryBroker)
    answers: dict[t.Topic, Answer] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner = self.broker.client(name="owner")
        self.home = Home(self.folder / "home")
        self.home.update_endpoints(
            "bus", {"broker": "mosquitto"}
        )  # the memory bus answers in order, as it does
        self.environ = {
            "HOME": str(self.folder), "POINTSMAN_HOME": str(self.home.path), "POINTSMAN_NODE_NAME": "node",
            "PATH": "/usr/bin:/bin", "COLUMNS": "100",
        }  # fmt: skip

    # the owners

    def say(self, row: t.Topic, payload: m.Payload | str | None, /, **values: str) -> None:
        self.owner.publish(row, payload, **values)

    def on(self, row: t.Topic, answer: Answer | Any) -> None:
        """Answer commands of a row: by a function, with a value, or by refusing."""
        self.answers[row] = answer if callable(answer) else lambda _command, _values: answer
        self.owner.subscribe(row)

    def refuse(self, row: t.Topic, code: str, message: str, details: Any = None) -> None:
        def refused(_command: dict[str, Any], _values: dict[str, str]) -> Any:
            raise RefusedError(code, message, details)

        self.on(row, refused)

    async def own(self) -> None:
        while True:
            message = await self.owner.receive()
            if not isinstance(message, Received) or message.row not in self.answers:
                continue
            command = msgspec.json.decode(message.payload)
            self.asked.append((message.topic, command))
            try:
                result = self.answers[message.row](command, message.values)
                reply = m.Reply(id=command["id"], ok=True, result=result)
            except RefusedError as error:
                details = msgspec.UNSET if error.details is None else error.details
                body = m.ErrorBody(code=error.code, message=error.message, details=details)
                reply = m.Reply(id=command["id"], ok=False, error=body)
            self.owner.publish(t.REPLIES, reply, id=command["id"])

    # what they say

    def services(self, **statuses: str) -> None:
        """Every service online and beating, but for those named (``offline``, ``stale``, ``mute``)."""
        for name in SERVICES:
            status = statuses.get(name, "online")
            self.broker.publish(
                f"pointsman/node/services/{name}/status",
                "offline" if status == "offline" else "online",
                retain=True,
            )
            if status == "mute":
                continue
            at = NOW - timedelta(seconds=60 if status == "stale" else 3)
            beat = m.ServiceHealth(
                service=name, pid=7, rss_bytes=40 * 2**20, cpu_percent=1.5, loop_lag_ms=0.2, uptime_s=3700,
                queue_depth=0, errors_total=0, at=at,
            )  # fmt: skip
            self.say(t.SERVICE_HEALTH, beat, self=name)

    def sessions(self, *states: m.SessionState) -> None:
        entries = [m.IndexEntry(session=s.session, uid=s.uid, kind=s.kind, status=s.status) for s in states]
        self.say(t.SESSIONS_INDEX, m.SessionIndex(sessions=entries, at=NOW))
        for state in states:
            self.say(t.SESSION_STATE, state, session=state.session)

    def pending(self, *requests: m.ApprovalRequest, tokens: bool = True) -> None:
        items = [
            m.PendingItem(
                id=r.id, session=r.session, tool=r.tool, kind=r.kind, summary=r.summary, level=r.danger.level,
                expires_at=r.expires_at,
            )
            for r in requests
        ]  # fmt: skip
        self.say(
            t.APPROVALS_PENDING,
            m.PendingApprovals(
                count=len(items), oldest_id=items[0].id if items else None, oldest_at=None, items=items
            ),
        )
        for request in requests:
            self.say(t.APPROVAL_REQUEST, request, id=request.id)
            if tokens:
                token = m.ApprovalToken(id=request.id, token=f"token-{request.id}")
                self.say(t.APPROVAL_TOKEN, token, id=request.id, user="operator")

    # the command

    def connect(self, _config: Config, _home: Home) -> BusBase:
        return self.broker.client(name="cli")

    async def pointsman(self, *argv: str) -> Result:
        self.capsys.readouterr()
        try:
            code = await run(argv, self.environ, self.connect, now=lambda: NOW)
        except SystemExit as left:
            code = int(left.code or 0)
        said = self.capsys.readouterr()
        return Result(code, said.out, said.err)


def play(stage: Stage, body: Callable[[Stage], Awaitable[None]], *, within_s: float = 60) -> None:
    """Run a test's body beside the owners, in virtual time."""

    async def main() -> None:
        with trio.fail_after(within_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stage.own)
                await body(stage)
                nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))  # nothing here waits for the real world


def state(session: str = "demo", **more: Any) -> m.SessionState:
    given: dict[str, Any] = {
        "session": session, "uid": f"01{session.upper()}", "node": "node", "kind": "managed",
        "title": session, "status": "waiting_input", "status_since": NOW - timedelta(minutes=5),
        "model": None, "turns": 3, "cwd": "/work/shop",
        "agent": m.AgentInfo(name="claude", version="2.1.329", session_id=None),
        "permission_mode": "default", "started_at": NOW, "last_activity_at": NOW,
        "last_message": "All tests pass.",
    }  # fmt: skip
    return m.SessionState(**{**given, **more})


def request(approval: str = "aaaa1111", **more: Any) -> m.ApprovalRequest:
    given: dict[str, Any] = {
        "id": approval, "session": "demo", "uid": "01DEMO", "node": "node", "kind": "tool", "tool": "Bash",
        "tool_use_id": "toolu_1", "agent_id": None, "input": {"command": "touch x"}, "input_sha256": "0" * 64,
        "input_partial": False, "summary": "touch x", "description": "", "cwd": "/work", "required": 1,
        "permission_mode": "default", "permission_suggestions": [], "created_at": NOW,
        "danger": m.Danger(level="medium", reason="writes", impact="a file"),
        "expires_at": NOW + timedelta(seconds=59),
    }  # fmt: skip
    return m.ApprovalRequest(**{**given, **more})


def question(approval: str = "aqqq2222", **more: Any) -> m.ApprovalRequest:
    options = [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}]
    asked = {"question": "Which colour?", "header": "Colour", "multiSelect": False, "options": options}
    given: dict[str, Any] = {
        "kind": "question", "tool": "AskUserQuestion", "input": {"questions": [asked]},
        "summary": "Which colour?",
    }  # fmt: skip
    return request(approval, **{**given, **more})


def cost(session: str = "demo", **more: Any) -> m.LedgerSession:
    given: dict[str, Any] = {
        "session": session, "uid": f"01{session.upper()}", "spent_usd": 0.0162, "budget_usd": 10.0,
        "remaining_usd": 9.9838, "used_ratio": 0.00162, "level": "abundant", "turns": 2,
        "tokens": m.Tokens(input=2400, output=71, cache_read=1600), "burn_usd_per_h": None,
        "by_model": {"claude-opus-5-5": m.ModelCost(cost_usd=0.0162, turns=2, tokens=m.Tokens())},
        "exhausted_at": None, "exhausted_between": None, "notional": False, "estimated_usd": 0.0,
        "unpriced": [], "drift_usd": 0.0, "witnesses": m.Witnesses(agent_usd=0.0162), "limits": [], "at": NOW,
    }  # fmt: skip
    return m.LedgerSession(**{**given, **more})


def total() -> m.LedgerTotal:
    given = {name: getattr(cost(), name) for name in m.LedgerTotal.__struct_fields__}
    return m.LedgerTotal(**{**given, "budget_usd": None, "remaining_usd": None, "level": "unlimited"})
