"""A core with a real store under it and a scripted agent's side, to feed and to ask what came of it.

`Play` carries out effects as the shell does, without a bus: durable ones in one transaction of a real SQLite
store, the rest into lists. `crash` throws the core away and makes a new one from the store.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from bus import bridge_wire as bw
from bus import messages as m
from bus import topics as t
from bus.codec import decode_data, encode_data
from bus.effects import Do, Effect, Keep, Post, Publish, ReplyTo
from services._process.store import open_store, transaction
from services.ingest.core import Sessions
from services.ingest.model import (
    AskController,
    Close,
    SendAck,
    SendBye,
    SendHello,
    SendLine,
    Session,
    Settings,
)
from services.ingest.store import MIGRATIONS, Store

UID = "01JD0000000000000000000001"
TOKEN = "token-of-one"
START = datetime(2026, 11, 20, 21, 30, tzinfo=UTC)
RECORDINGS = Path(__file__).parents[2] / "recordings"


def created(name: str = "one", **more: Any) -> m.SessionCreated:
    fields: dict[str, Any] = {
        "session": name, "kind": "managed", "cwd": "/home/user/work", "title": name, "model": None,
        "permission_mode": "default", "pinned": False, "parent": None, "agent": "claude",
        "agent_version": "2.1.329",
        "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest(), "prompt": None, "prompt_id": None,
        "by": None,
        "resume": None, "auto_approve": ["Read"],
    }  # fmt: skip
    return m.SessionCreated(**{**fields, **more})


def frame(**fields: Any) -> bytes:
    return msgspec.json.encode(fields)


def recorded(name: str) -> list[dict[str, Any]]:
    """What the agent said in a recording, in order."""
    lines = (json.loads(line) for line in (RECORDINGS / name).read_text().splitlines())
    return [line["msg"] for line in lines if line["dir"] == "cli->srv" and isinstance(line["msg"], dict)]


class Play:
    def __init__(self, path: Path, **settings: Any) -> None:
        self.path = path
        self.now = START
        self.settings = Settings("node", **settings)
        self.posted: dict[str, m.Fact] = {}  # by id, as the outbox keeps them
        self.post_log: list[m.Fact] = []
        self.published: list[tuple[Any, Any, dict[str, str]]] = []
        self.replies: list[ReplyTo] = []
        self.done: list[Do] = []
        self.journal = b""
        self.number = 0
        self.fact_ids = 0
        self.gate: str | None = "none"  # what it says to every tool call; None: it is away
        self.asked_gate: list[m.JudgeTool] = []
        self._db: sqlite3.Connection | None = None
        self._open()

    def _open(self) -> None:
        self._db = open_store(self.path, MIGRATIONS, durable=False)
        self.store = Store(self._db)
        self.core = Sessions(self.settings)
        self.core.load(self.store.records(), self.store.prompts(), self.store.lines())
        self.act(self.core.begin(self.now))

    def crash(self) -> None:
        """kill -9: only what was committed is left."""
        assert self._db is not None
        self._db.close()
        self._open()

    def act(self, effects: Iterable[Effect]) -> list[Effect]:
        effects = list(effects)
        assert self._db is not None
        with transaction(self._db):
            for effect in effects:
                if isinstance(effect, Keep):
                    self.store.keep(effect)
                elif isinstance(effect, Post):
                    assert decode_data(effect.fact) is not None  # the owner can read it
                    self.posted.setdefault(effect.fact.id, effect.fact)
                    self.post_log.append(effect.fact)
        for effect in effects:
            if isinstance(effect, Publish):
                self.published.append((effect.row, effect.payload, effect.values))
                if isinstance(effect.payload, bytes):
                    kind = m.EVENT_TYPES[effect.values["type"]]
                    msgspec.json.decode(effect.payload, type=kind)  # fits the contract
                if isinstance(effect.payload, m.JudgeTool):
                    self.asked_gate.append(effect.payload)
            elif isinstance(effect, ReplyTo):
                self.replies.append(effect)
            elif isinstance(effect, Do):
                self.done.append(effect)
        while self.gate is not None and self.asked_gate:
            self.judge(self.asked_gate.pop(0), self.gate)
        return effects

    def judge(self, asked: m.JudgeTool, verdict: str, message: str = "") -> list[Effect]:
        """The gate's word on a hook callback."""
        fields = {"uid": asked.uid, "process": asked.process, "request_id": asked.request_id}
        said = msgspec.convert({**fields, "verdict": verdict, "message": message}, m.ToolVerdict)
        return self.act(self.core.judged(said, self.now))

    # the world

    def later(self, seconds: float) -> list[Effect]:
        self.now += timedelta(seconds=seconds)
        return self.act(self.core.tick(self.now))

    def fact(self, data: m.Payload, uid: str = UID) -> list[Effect]:
        kind = next(name for name, kind in m.FACT_TYPES.items() if type(data) is kind)
        self.fact_ids += 1
        fact = m.Fact(id=f"f{self.fact_ids}", type=kind, uid=uid, at=self.now, data=encode_data(data))
        core = self.core
        handler = {
            "created": core.created,
            "started": core.started,
            "exited": core.exited,
            "answer": core.answered,
            "hold": core.held,
        }
        return self.act(handler[kind](fact, data, self.now))  # type: ignore[operator]  # by its own type

    def open(
        self,
        name: str = "one",
        *,
        uid: str = UID,
        prompt: str | None = None,
        resume: str | None = None,
        **more: Any,
    ) -> None:
        """A session whose bridge is connected."""
        self.fact(created(name, prompt=prompt, resume=resume, **more), uid)
        self.fact(m.AgentStarted(process=1, resume=resume), uid)
        self.connect(name)

    def connect(self, name: str = "one", process: int = 1, *, written: int = 0) -> None:
        """A bridge connects: it says hello, and sends what it is asked for."""
        self.number += 1
        self.act(self.core.connected(name, self.number, self.now, bridge=True, seen=set()))
        hello = bw.BridgeHello(process=process, written=written, agent_pid=1, size=len(self.journal))
        self.act(self.core.hello(self.number, hello, self.now))
        offset = next((d.offset for d in reversed(self.done) if isinstance(d, SendHello)), len(self.journal))
        if len(self.journal) > offset:
            self.send(offset, len(self.journal))

    def attach(self, name: str = "one") -> None:
        """An sdk-url agent connects."""
        self.number += 1
        seen = self.store.seen(self.core.uid(name))
        self.act(self.core.connected(name, self.number, self.now, bridge=False, seen=seen))

    def detach(self) -> None:
        self.act(self.core.disconnected(self.number, self.now))

    def write(self, *lines: bytes) -> int:
        """The agent writes into its journal."""
        start = len(self.journal)
        self.journal += b"".join(line + b"\n" for line in lines)
        return start

    def send(self, start: int, end: int) -> list[Effect]:
        data = bw.decode_from_bridge(bw.encode_data(start, self.journal[start:end]))
        assert isinstance(data, bw.Data)
        effects = self.core.data(self.number, data, self.now)
        assert effects is not None
        return self.act(effects)

    def say(self, *frames: dict[str, Any] | bytes) -> list[Effect]:
        """The agent says these, in one message."""
        lines = [f if isinstance(f, bytes) else frame(**f) for f in frames]
        if self.record.kind == "sdk-url":
            return self.act(self.core.lines(self.number, lines, self.now))
        return self.send(self.write(*lines), len(self.journal))

    def initialize(self) -> None:
        """Answer all requests of ours that are open."""
        for request_id, what in list(self.record.requests.items()):
            response = {"text": "Total cost: $0.0000"} if what == "baseline" else {}
            self.respond(request_id, response)

    def respond(self, request_id: str, response: Any, subtype: str = "success") -> None:
        answer = {"subtype": subtype, "request_id": request_id, "response": response}
        self.say({"type": "control_response", "response": answer})

    def taken(self) -> None:
        self.act(self.core.taken(self.number, self.record.line, self.now))

    # what came of it

    @property
    def session(self) -> Session:
        return self.core.named("one", None)

    @property
    def record(self) -> Any:
        return self.session.record

    def lines(self) -> list[dict[str, Any]]:
        """What was sent to the agent, each number once."""
        seen = {(d.n or -i): d.data for i, d in enumerate(self.done) if isinstance(d, SendLine)}
        return [json.loads(data) for data in seen.values()]

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        found = [json.loads(p) for row, p, _ in self.published if row is t.SESSION_EVENT]
        return [e for e in found if not kinds or e["type"] in kinds]

    def facts(self, kind: str) -> list[Any]:
        return [decode_data(fact) for fact in self.posted.values() if fact.type == kind]

    def state(self) -> m.SessionState:
        states = [p for row, p, _ in self.published if row is t.SESSION_STATE]
        assert isinstance(states[-1], m.SessionState)
        return states[-1]

    def kept_events(self, uid: str = UID) -> list[dict[str, Any]]:
        return [json.loads(bytes(raw)) for raw in self.store.history(uid, 0, 100_000)]

    def asked(self) -> list[Any]:
        return [d.ask for d in self.done if isinstance(d, AskController)]

    def closed(self) -> list[Close]:
        return [d for d in self.done if isinstance(d, Close)]


FIGURES = bw.Figures(
    version="1.2", bridge=bw.Used(rss_bytes=30_000_000, cpu_s=1.25, open_fds=12, started_s=1.8e9),
    keeper=bw.Used(rss_bytes=6_000_000, cpu_s=0.03, open_fds=5, started_s=1.8e9), journal_bytes=8192,
    unacknowledged_bytes=77, waiting_lines=2, lines_out=10, bytes_out=1000, lines_in=3, bytes_in=300,
    unwritable=1, connections=4, failed_connections=6,
)  # fmt: skip

INIT = {
    "type": "system", "subtype": "init", "session_id": "conv-1", "model": "claude-opus-5-5",
    "permissionMode": "default",
    "claude_code_version": "2.1.329", "uuid": "init-1",
}  # fmt: skip


def result(uuid: str, total: str = "0.01", **more: Any) -> bytes:
    fields = {
        "type": "result", "subtype": "success", "is_error": False, "uuid": uuid, "num_turns": 1,
        "duration_ms": 12,
        "total_cost_usd": msgspec.Raw(total.encode()), "usage": {"input_tokens": 3}, "result": "done",
        "modelUsage": {"claude-opus-5-5": {"costUSD": msgspec.Raw(total.encode()), "inputTokens": 3}},
    }  # fmt: skip
    return msgspec.json.encode({**fields, **more})


def can_use(
    request_id: str, tool: str = "Bash", tool_use_id: str = "toolu_1", given: str = '{"command":"ls"}'
) -> bytes:
    request = {
        "subtype": "can_use_tool",
        "tool_name": tool,
        "input": msgspec.Raw(given.encode()),
        "tool_use_id": tool_use_id,
    }
    return frame(type="control_request", request_id=request_id, request=request)


def tool_result(tool_use_id: str = "toolu_1", text: str = "ok", uuid: str = "u-1") -> bytes:
    block = {"type": "tool_result", "tool_use_id": tool_use_id, "content": text, "is_error": False}
    return frame(type="user", message={"role": "user", "content": [block]}, uuid=uuid)


__all__ = ["SendAck", "SendBye"]
