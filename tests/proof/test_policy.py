"""Issue "The approval gate": what a rule forbids, the real Claude Code CLI does not do, whatever its mode.

Each version gets one session, in ``acceptEdits`` and with permission rules of the user's own that allow what
ours forbid; what runs by itself and what is asked is decided in one turn each.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import clean_env
from tests.support.stack import Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

RULES = """
[[approvals.rules]]
name = "no secrets"
decision = "deny"
path = "secret*"
reason = "these are not for agents"

[[approvals.rules]]
name = "no deploys"
decision = "deny"
command = "touch deployed*"

[[approvals.rules]]
name = "ask for notes"
decision = "ask"
tool = ["Read", "Write"]
path = "notes.md"
"""
SETTINGS = {"permissions": {"allow": ["Bash(touch:*)", "Read", "Write"]}}


class Desk:
    """A running stack, a session in it, and what is seen of it."""

    def __init__(self, stack: Stack, recorder: Recorder, cwd: Path) -> None:
        self.stack, self.recorder, self.cwd = stack, recorder, cwd
        self.turns = 0

    def say(self, prompt: str) -> None:
        self.stack.pointsman("send", "desk", prompt)

    def turn(self, prompt: str) -> list[dict[str, Any]]:
        """What became of the tools of one turn."""
        before = len(self.tools())
        self.say(prompt)
        self.over()
        return self.tools()[before:]

    def over(self) -> None:
        self.turns += 1
        eventually(
            lambda: len(self.recorder.all("sessions/desk/events/result")) >= self.turns, "the turn is over"
        )

    def tools(self) -> list[dict[str, Any]]:
        return [e for e in self.recorder.all("sessions/desk/events/tool") if e["phase"] == "finished"]

    def pending(self) -> dict[str, Any]:
        return eventually(lambda: next(iter(self.stack.pointsman("approvals")), None), "an approval waits")

    def outcome(self, approval: str) -> dict[str, Any]:
        return eventually(
            lambda: next(
                (o for o in self.recorder.all(f"approvals/{approval}/outcome") if o["applied"] is not None),
                None,
            ),
            "the outcome, applied",
        )

    def state(self) -> dict[str, Any]:
        return self.recorder.last("sessions/desk/state") or {}


@pytest.fixture
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    user, cwd = tmp_path / "user", tmp_path / "work"
    (user / ".claude").mkdir(parents=True)
    (user / ".claude/settings.json").write_text(json.dumps(SETTINGS))
    cwd.mkdir()
    (cwd / "secret.txt").write_text("the secret")
    (tmp_path / "config.toml").write_text(RULES)
    with MessagesApi() as api:
        environment = clean_env(user, api.url)
        settings = {
            "POINTSMAN_BUS_BROKER": "mosquitto",
            "POINTSMAN_AGENT_CLAUDE": str(claude_path(request.param)),
        }
        with Stack(tmp_path / "home", environment, **settings) as stack, stack.recorder() as recorder:
            stack.pointsman("new", "desk", "--cwd", str(cwd), "--permission-mode", "acceptEdits")
            yield Desk(stack, recorder, cwd)


@pytest.mark.parametrize("desk", ["2.1.329", "2.1.42"], indirect=True)  # 2.1.119 does as 2.1.329
def test_rules_hold_in_every_mode_and_for_what_the_agent_would_not_ask(desk: Desk) -> None:
    # a Read inside the working directory, a Write in acceptEdits, a command that the user's own rules allow
    for prompt in ("READ secret.txt", "WRITE secret.md x", "BASH touch deployed"):
        [tool] = desk.turn(f"{prompt} ;; SAY done")
        assert tool["is_error"], tool
        assert tool["decided_by"] == "rule"
        assert "Denied by a rule of the user's policy" in tool["output"]
        outcome = desk.outcome(tool["approval"])
        assert (outcome["decision"], outcome["via"], outcome["applied"]) == ("denied", "policy", True)
    # what no rule is about goes its own way
    [tool] = desk.turn("BASH touch made ;; SAY done")
    assert (tool["is_error"], tool["decided_by"]) == (False, "agent")
    assert (desk.cwd / "made").exists()

    # a rule that asks is asked, although the agent would not
    desk.say("WRITE notes.md changed ;; SAY done")
    approval = desk.pending()
    assert approval["tool"] == "Write"
    desk.stack.pointsman("deny", approval["id"])
    desk.over()
    assert not (desk.cwd / "notes.md").exists()

    # in a subagent
    task = json.dumps(
        {"description": "d", "prompt": "BASH touch deployed-too", "subagent_type": "general-purpose"}
    )
    desk.turn(f"TOOL Task {task} ;; SAY done")
    eventually(
        lambda: [e for e in desk.tools() if e["tool"] == "Bash" and "deployed-too" in e["summary"]],
        "the subagent was refused",
    )
    assert sorted(path.name for path in desk.cwd.iterdir()) == ["made", "secret.txt"]

    assert desk.state()["enforcement"] == "full"
    assert desk.recorder.all("approvals/events") == []


@pytest.mark.parametrize("desk", ["2.1.329"], indirect=True)
def test_the_gate_and_the_bridge_are_killed_in_an_approval(desk: Desk) -> None:
    """One outcome, which reaches the agent once; also where a hook callback waits while the gate is away."""
    stack = desk.stack
    gate = stack.service_pid("approvals")
    os.kill(gate, signal.SIGSTOP)  # so that the callback surely waits when the gate dies
    desk.say("BASH touch deployed & WRITE notes.md changed ;; SAY done")
    eventually(
        lambda: [e for e in desk.recorder.all("sessions/desk/events/tool") if e["phase"] == "started"],
        "the agent is about to use a tool",
    )
    os.kill(gate, signal.SIGKILL)
    approval = desk.pending()
    assert approval["tool"] == "Write"
    eventually(
        lambda: [o for o in desk.recorder.all("approvals/+/outcome") if o["applied"]], "the denial was taken"
    )
    gate = eventually(lambda: _other(stack, gate), "the gate is there again")
    os.kill(gate, signal.SIGKILL)
    bridges = [p for p in stack.processes() if "services.bridge" in p.cmdline()]
    assert bridges
    for bridge in bridges:
        bridge.kill()
    eventually(lambda: _other(stack, gate), "the gate is there again")
    assert desk.pending()["id"] == approval["id"]
    stack.pointsman("approve", approval["id"])
    outcome = desk.outcome(approval["id"])
    assert (outcome["decision"], outcome["applied"]) == ("approved", True)
    desk.over()
    assert (desk.cwd / "notes.md").read_text().strip() == "changed"
    assert not (desk.cwd / "deployed").exists()
    decided = [o for o in desk.recorder.all("approvals/+/outcome") if o["applied"]]
    assert sorted(o["decision"] for o in decided) == ["approved", "denied"]
    assert desk.recorder.all("approvals/events") == []


def _other(stack: Stack, before: int) -> int | None:
    try:
        pid = stack.service_pid("approvals")
        os.kill(pid, 0)
    except (ProcessLookupError, ValueError, IndexError, FileNotFoundError):
        return None
    return pid if pid != before else None


TWO = {
    "questions": [
        {
            "question": "Which colour?", "header": "Colour", "multiSelect": False,
            "options": [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}],
        },
        {
            "question": "Which fruits?", "header": "Fruits", "multiSelect": True,
            "options": [
                {"label": "Apple", "description": ""}, {"label": "Pear", "description": ""},
                {"label": "Plum", "description": ""},
            ],
        },
    ]
}  # fmt: skip


@pytest.mark.parametrize("desk", ["2.1.329"], indirect=True)
def test_questions_and_plans_are_answered_and_decisions_remembered(desk: Desk) -> None:
    stack, recorder = desk.stack, desk.recorder
    desk.say(f"TOOL AskUserQuestion {json.dumps(TWO)} ;; SAY done")
    asked = desk.pending()
    assert (asked["kind"], asked["expires_at"]) == ("question", None)
    refused = stack.run("approve", asked["id"])
    assert (refused.returncode, "pointsman answer" in refused.stderr) == (1, True)
    # one of the options and some free text; several of the options
    stack.pointsman("answer", asked["id"], "--answer", "1=Teal, if there is", "--answer", "2=Apple, Plum")
    outcome = desk.outcome(asked["id"])
    assert outcome["answers"] == {"Which colour?": "Teal, if there is", "Which fruits?": "Apple, Plum"}
    desk.over()
    assert "Teal, if there is" in desk.tools()[-1]["output"]
    assert "Apple, Plum" in desk.tools()[-1]["output"]

    desk.say("ASK Shall I?|Yes|No ;; SAY done")
    asked = desk.pending()
    token = eventually(lambda: recorder.last(f"approvals/{asked['id']}/tokens/operator"), "a token")["token"]
    told = {"decision": "approve", "token": token}
    stack.publish(f"approvals/{asked['id']}/decision", {**told, "id": "no-answers"})
    reply = eventually(lambda: recorder.last("replies/no-answers"), "a refusal")
    assert reply["error"]["code"] == "bad_request"
    stack.publish(
        f"approvals/{asked['id']}/decision", {**told, "id": "answers", "answers": {"Shall I?": "No"}}
    )
    assert desk.outcome(asked["id"])["answers"] == {"Shall I?": "No"}
    desk.over()
    assert '"Shall I?"="No"' in desk.tools()[-1]["output"]

    # remembered: the very same command is not asked about again, until it is forgotten
    desk.say("BASH python3 -c 1 ;; SAY done")
    rule = stack.pointsman("approve", desk.pending()["id"], "--remember", "always")["remembered"]
    desk.over()
    [tool] = desk.turn("BASH python3 -c 1 ;; SAY done")
    assert (tool["is_error"], tool["decided_by"]) == (False, "rule")
    assert [entry["id"] for entry in stack.pointsman("policy", "rules")["remembered"]] == [rule]
    stack.pointsman("policy", "forget", rule)
    said = stack.pointsman("policy", "explain", "Bash", '{"command": "python3 -c 1; touch deployed"}')
    assert (said["decision"], said["rule"]) == ("deny", "no deploys")
    config = Path(stack.environment["POINTSMAN_CONFIG"])
    config.write_text(RULES + '[[approvals.rules]]\ndecision = "forbid"\n')
    assert stack.run("policy", "reload").returncode == 1
    assert len(stack.pointsman("policy", "rules")["rules"]) == 3
    assert [e["action"] for e in recorder.all("approvals/events")] == ["policy_rejected"]

    stack.publish("sessions/desk/set", {"id": "plan-1", "permission_mode": "plan"})
    eventually(lambda: desk.state().get("permission_mode") == "plan", "plan mode")
    desk.say("PLAN first make it work ;; SAY done")
    plan = desk.pending()
    assert (plan["kind"], plan["expires_at"]) == ("plan", None)
    stack.pointsman("deny", plan["id"], "--reason", "make it shorter")
    desk.over()
    assert "make it shorter" in desk.tools()[-1]["output"]
    desk.say("PLAN make it short ;; SAY done")
    plan = desk.pending()
    stack.pointsman("approve", plan["id"])
    desk.over()
    assert "has approved" in desk.tools()[-1]["output"]
