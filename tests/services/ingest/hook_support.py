"""Hooks for a `Play`: what the agent's side posts, and what it is answered."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from bus import messages as m
from bus.codec import decode_data
from services.ingest import hook_wire
from services.ingest.hook_model import AnswerHook, Presence
from tests.services.ingest.support import RECORDINGS, UID, Play, created

CONVERSATION = "conv-1"
FRESH = "01JD00000000000000000000{:02d}"


def recorded_hooks(name: str) -> list[tuple[str, dict[str, Any]]]:
    """(event, body) of what was posted in a recording, in order."""
    lines = (json.loads(line) for line in (RECORDINGS / name).read_text().splitlines())
    said = [(line["dir"], line["msg"]) for line in lines if line["dir"] in ("hook-http", "hook-command")]
    # the command hooks of that recording doubled the others
    wanted = [msg for way, msg in said if way == "hook-http" or msg["event"] == "SessionStart"]
    return [(msg["event"], msg["body"]) for msg in wanted]


class HookPlay(Play):
    """``inside`` is the uid of an interactive session whose hooks these are; None: an external one's."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self.posts = 0
        self.inside: str | None = None
        super().__init__(path, **settings)

    def interactive(self) -> None:
        self.inside = UID
        self.fact(created(kind="interactive"))
        self.fact(m.AgentStarted(process=1, resume=None))

    def post(self, event: str, *, pid: int = 0, **body: Any) -> int:
        """One hook. Returns its request's number."""
        given = {"session_id": CONVERSATION, "cwd": "/home/user/work", "hook_event_name": event, **body}
        return self.post_body(event, given, pid=pid)

    def post_body(self, event: str, body: dict[str, Any], *, pid: int = 0) -> int:
        return self.post_raw(event, msgspec.json.encode(body), pid=pid)

    def post_raw(self, event: str, body: bytes, *, pid: int = 0) -> int:
        self.posts += 1
        hook = hook_wire.decode(event, body)
        fresh = FRESH.format(self.posts)
        self.act(self.core.hook(self.posts, self.inside, hook, fresh, self.now, pid=pid))
        return self.posts

    def answer_to(self, number: int) -> dict[str, Any] | None:
        """What the request was answered; None: it waits."""
        bodies = [d.body for d in self.done if isinstance(d, AnswerHook) and d.number == number]
        assert len(bodies) <= 1, "answered twice"
        return json.loads(bodies[0]) if bodies else None

    def hang_up(self, number: int) -> None:
        self.act(self.core.hook_lost(number, self.now))

    def asks(self, command: str = "touch x", tool_use_id: str = "toolu_1", **more: Any) -> int:
        """The agent starts a command and asks for permission."""
        given = {"tool_name": "Bash", "tool_input": {"command": command}, **more}
        self.post("PreToolUse", tool_use_id=tool_use_id, **given)
        return self.post("PermissionRequest", **given)

    def ran(self, command: str = "touch x", tool_use_id: str = "toolu_1", **more: Any) -> int:
        """… and it has run, for 10 ms."""
        response = {"stdout": "made", "stderr": ""}
        given = {"tool_name": "Bash", "tool_input": {"command": command}, "duration_ms": 10}
        return self.post("PostToolUse", tool_use_id=tool_use_id, tool_response=response, **{**given, **more})

    def decide(self, decision: str, **more: Any) -> m.Question:
        """The gate answers the last question."""
        question: m.Question = self.facts("question")[-1]
        given: dict[str, Any] = {"message": "no", "input_json": "", "interrupt": False}
        if decision == "approved":
            given["input_json"] = question.input_json
        self.fact(
            m.Answer(
                approval=question.approval, process=question.process, request_id=question.request_id,
                decision=decision, **{**given, **more},
            ),
            uid=self.uid,
        )  # fmt: skip
        return question

    def notes(self, status: str, since: datetime | None = None) -> None:
        """The agent notes this of itself (since now), and it is seen a second later."""
        since = self.now if since is None else since
        self.later(1)
        self.act(self.core.presence(self.uid, Presence(status, since), self.now))

    def questions(self) -> list[tuple[str, m.Question]]:
        """(uid, question) of all that were asked."""
        facts = [fact for fact in self.posted.values() if fact.type == "question"]
        return [(fact.uid or "", cast(m.Question, decode_data(fact))) for fact in facts]

    def close(self) -> None:
        assert self._db is not None
        self._db.close()

    @property
    def uid(self) -> str:
        return str(next(s.record.uid for s in self.core._by_uid.values() if s.record.living))

    def applied(self) -> list[bool]:
        return [fact.applied for fact in self.facts("applied")]
