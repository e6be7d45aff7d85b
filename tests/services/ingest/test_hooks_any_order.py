"""Hooks in any order, with answers, hang-ups and restarts anywhere: nobody waits for nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bus import messages as m
from services.ingest.hook_model import AnswerHook
from tests.services.ingest.hook_support import HookPlay
from tests.services.ingest.support import UID

EVENTS = st.sampled_from(
    ["SessionStart", "UserPromptSubmit", "Stop", "StopFailure", "Notification", "PreCompact", "PostCompact",
     "SubagentStop", "SessionEnd", "Unheard"]
)  # fmt: skip
TOOLS = st.integers(0, 3)
AGENTS = st.sampled_from([None, "agent-1"])


class AnyOrder(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.decided: set[str] = set()
        self.open: set[int] = set()  # requests that their client still waits for

    def teardown(self) -> None:
        self.play.close()
        self.folder.cleanup()

    @initialize(interactive=st.booleans())
    def begin(self, interactive: bool) -> None:
        self.play = HookPlay(Path(self.folder.name) / "ingest.sqlite")
        if interactive:
            self.play.interactive()

    def _post(self, event: str, **body: Any) -> None:
        number = self.play.post(event, **body)
        self.open.add(number)
        self._read()

    def _read(self) -> None:
        """Clients take their answers."""
        for done in [d for d in self.play.done if isinstance(d, AnswerHook)]:
            if done.number in self.open:
                self.open.discard(done.number)
                self.play.act(self.play.core.hook_done(done.number, self.play.now))

    @rule(
        event=EVENTS, source=st.sampled_from(["startup", "clear", "compact"]), conversation=st.integers(1, 2)
    )
    def says(self, event: str, source: str, conversation: int) -> None:
        more = {"source": source, "notification_type": "idle_prompt", "prompt": "go", "reason": source}
        self._post(event, session_id=f"conv-{conversation}", last_assistant_message="done?", **more)

    @rule(tool=TOOLS, agent=AGENTS, gate=st.sampled_from(["none", "ask", None]))
    def calls(self, tool: int, agent: str | None, gate: str | None) -> None:
        self.play.gate = gate
        given = {"tool_name": "Bash", "tool_input": {"command": f"c{tool}"}, "agent_id": agent}
        self._post("PreToolUse", tool_use_id=f"toolu_{tool}_{agent}", **given)

    @rule(tool=TOOLS, agent=AGENTS)
    def asks(self, tool: int, agent: str | None) -> None:
        given = {"tool_name": "Bash", "tool_input": {"command": f"c{tool}"}, "agent_id": agent}
        self._post("PermissionRequest", **given)

    @rule(tool=TOOLS, agent=AGENTS, failed=st.booleans(), ms=st.integers(0, 5000))
    def ran(self, tool: int, agent: str | None, failed: bool, ms: int) -> None:
        event = "PostToolUseFailure" if failed else "PostToolUse"
        given = {"tool_name": "Bash", "tool_input": {"command": f"c{tool}"}, "agent_id": agent}
        self._post(event, tool_use_id=f"toolu_{tool}_{agent}", duration_ms=ms, **given)

    @rule(data=st.data(), decision=st.sampled_from(["approved", "denied", "expired", "cancelled"]))
    def decides(self, data: st.DataObject, decision: str) -> None:
        questions = [(uid, q) for uid, q in self.play.questions() if q.approval not in self.decided]
        if questions:
            uid, q = data.draw(st.sampled_from(questions))
            self.decided.add(q.approval)  # the gate decides once
            given = q.input_json if decision == "approved" else ""
            answer = m.Answer(
                approval=q.approval, process=q.process, request_id=q.request_id, decision=decision,
                message="", input_json=given, interrupt=False,
            )  # fmt: skip
            self.play.fact(answer, uid=uid)
            self._read()

    @rule(data=st.data())
    def hangs_up(self, data: st.DataObject) -> None:
        if self.open:
            number = data.draw(st.sampled_from(sorted(self.open)))
            self.open.discard(number)
            self.play.hang_up(number)
            self._read()

    @rule(seconds=st.sampled_from([0.3, 3.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.play.later(seconds)
        self._read()

    @rule()
    def restarted(self) -> None:
        self.open.clear()
        self.play.crash()
        self.play.act(self.play.core.begin_hooks(self.play.now))

    @rule()
    def died(self) -> None:
        if self.play.inside is not None:
            process = self.play.core.named("one", UID).record.process
            self.play.fact(m.AgentExited(process=process, exit_code=1, reason="died", final=False))
            if self.play.core.named("one", UID).record.living:
                self.play.fact(m.AgentStarted(process=process + 1, resume=None))
            self._read()

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """A request that is open belongs to a question or a call that is; and the other way round."""
        waiting = {
            number for s in self.play.core._by_uid.values() for number in s.waiting.values()
        }  # fmt: skip
        assert waiting == self.open
        for s in self.play.core._by_uid.values():
            for request_id in s.waiting:
                assert request_id in s.record.questions or request_id in s.record.callbacks
            if not s.record.living:
                assert not s.record.questions
                assert not s.waiting

    @invariant()
    def an_answer_is_applied_once(self) -> None:
        values: dict[str, bytes] = {}
        for fact in self.play.post_log:
            if fact.type == "applied":
                assert values.setdefault(fact.id, bytes(fact.data)) == bytes(fact.data), fact.id


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
