"""Interactive and external sessions, with the real screen of Claude Code in a real tmux.

One stack carries several tests' worth of steps, because starting it is what costs. The person at the screen
is played by tmux keys, which look at the screen first, as a person would.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.tmux import screen
from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import API_KEY, clean_env
from tests.support.stack import Recorder, Stack, eventually

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]
PATIENCE_S = 60.0
VERSION = "2.1.329"


RULES = """
[[approvals.rules]]
decision = "deny"
path = "secret*"

[[approvals.rules]]
decision = "deny"
command = "mkdir forbidden"
"""
ALLOWED = {"permissions": {"allow": ["Bash(mkdir:*)", "Write"]}}


class Desk:
    """A stack, a scripted model, and a person with a tmux."""

    def __init__(self, stack: Stack, user_home: Path, cwd: Path) -> None:
        self.stack, self.user_home, self.cwd = stack, user_home, cwd
        self.own = user_home / "own.sock"

    def tmux(self, *words: str, server: Path | None = None) -> str:
        argv = ["tmux", "-f", "/dev/null", "-S", str(server or self.stack.home / "tmux.sock"), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout

    def seed(self, *, trusted: bool) -> None:
        """Answers to the dialogs of a first start."""
        project = {str(self.cwd): {"hasTrustDialogAccepted": True}} if trusted else {}
        answers = {
            "hasCompletedOnboarding": True, "theme": "dark", "projects": project,
            "customApiKeyResponses": {"approved": [API_KEY[-20:]], "rejected": []},
        }  # fmt: skip
        (self.user_home / ".claude.json").write_text(json.dumps(answers))

    def shown(self, name: str, server: Path | None = None) -> str:
        return self.tmux("capture-pane", "-p", "-t", f"={name}:", server=server)

    def dialog(self, name: str, server: Path | None = None) -> screen.Dialog:
        return eventually(
            lambda: screen.dialog(self.shown(name, server)), f"a dialog on {name}'s screen", PATIENCE_S
        )

    def no_dialog(self, name: str, server: Path | None = None) -> None:
        eventually(
            lambda: screen.takes_text(self.shown(name, server)), f"{name}'s screen is free", PATIENCE_S
        )

    def press(self, name: str, key: str, server: Path | None = None) -> None:
        self.tmux("send-keys", "-t", f"={name}:", key, server=server)

    def choose(self, name: str, key: str, server: Path | None = None) -> None:
        """Answer the dialog with a key; again where it was pressed before the dialog listened."""
        self.dialog(name, server)
        for _ in range(3):
            self.press(name, key, server)
            with contextlib.suppress(AssertionError):
                eventually(lambda: screen.dialog(self.shown(name, server)) is None, "the dialog goes", 20)
                return
        raise AssertionError(f"the dialog takes no {key}:\n{self.shown(name, server)}")

    def state(self, name: str) -> dict[str, Any]:
        return next((s for s in self.stack.pointsman("ls") if s["session"] == name), {})

    def until(self, name: str, status: str) -> dict[str, Any]:
        return eventually(
            lambda: state if (state := self.state(name)).get("status") == status else None,
            f"{name} is {status}",
            PATIENCE_S,
        )

    def pending(self, name: str) -> dict[str, Any]:
        return eventually(
            lambda: next((a for a in self.stack.pointsman("approvals") if a["session"] == name), None),
            f"{name} asks for an approval",
            PATIENCE_S,
        )

    def outcome(self, recorder: Recorder, approval: dict[str, Any]) -> dict[str, Any]:
        """The outcome once it is known whether it was applied."""

        def settled() -> dict[str, Any] | None:
            found = recorder.all(f"approvals/{approval['id']}/outcome")
            return next((o for o in found if o["applied"] is not None), None)

        return eventually(settled, "the outcome is settled", PATIENCE_S)

    def results(self, recorder: Recorder, name: str, count: int, patience_s: float = PATIENCE_S) -> None:
        topic = f"sessions/{name}/events/result"
        eventually(lambda: len(recorder.all(topic)) >= count, f"{count} results of {name}", patience_s)


def quiet_port() -> int:
    """A free port that neither another stack's search (from 6182) nor the kernel (from 32768) gives away."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            port = random.randrange(20_000, 30_000)
            probe.bind(("127.0.0.1", port))
            return port


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    user_home, cwd = tmp_path / "user", tmp_path / "work"
    user_home.mkdir()
    cwd.mkdir()
    (tmp_path / "config.toml").write_text(RULES)
    with MessagesApi() as api:
        settings = {
            "POINTSMAN_BUS_BROKER": "mosquitto", "POINTSMAN_AGENT_CLAUDE": str(claude_path(VERSION)),
            "POINTSMAN_APPROVALS_TIMEOUT_S": "0", "POINTSMAN_APPROVALS_TIMEOUT_HIGH_S": "3",
            "POINTSMAN_INGEST_HOOKS_PORT": str(quiet_port()),  # it must be there again after a restart
        }  # fmt: skip
        with Stack(tmp_path / "home", clean_env(user_home, api.url), **settings) as stack:
            yield Desk(stack, user_home, cwd)


def test_an_interactive_session_from_trust_to_end(desk: Desk) -> None:
    """Trust, prompts, approvals and questions from the bus and at the screen, expiry, rules, budget, end."""
    desk.seed(trusted=False)
    stack, cwd = desk.stack, desk.cwd
    with stack.recorder() as recorder:
        stack.pointsman("new", "wary", "--kind", "interactive", "--cwd", str(cwd))
        waits = eventually(lambda: desk.state("wary").get("error"), "it says what it waits for", PATIENCE_S)
        assert "--trust" in waits
        assert desk.state("wary")["status"] == "starting"
        assert desk.dialog("wary").trust is not None, "nobody has answered it"
        stack.pointsman("end", "wary")

        stack.pointsman(
            "new", "demo", "--kind", "interactive", "--cwd", str(cwd), "--trust",
            "--prompt", "BASH touch from-bus ;; SAY one",
        )  # fmt: skip
        approval = desk.pending("demo")
        assert approval["input"]["command"] == "touch from-bus"
        assert approval["tool_use_id"]
        assert desk.dialog("demo").options[0] == "Yes", "the dialog stands beside it"
        stack.pointsman("approve", approval["id"])
        outcome = desk.outcome(recorder, approval)
        assert (outcome["decision"], outcome["by"], outcome["applied"]) == ("approved", "operator", True)
        desk.results(recorder, "demo", 1)
        assert (cwd / "from-bus").exists()
        state = desk.until("demo", "waiting_input")
        assert (state["kind"], state["error"], state["permission_mode"]) == ("interactive", None, "default")
        assert state["last_message"] == "one"
        prompts = recorder.all("sessions/demo/events/prompt")
        assert [p["phase"] for p in prompts] == ["queued", "delivered"]
        [result] = recorder.all("sessions/demo/events/result")
        assert result["prompt_ids"] == [prompts[0]["prompt_id"]]

        sent = stack.pointsman("send", "demo", "BASH touch denied\nSAY two")
        assert sent["method"] == "tmux"
        approval = desk.pending("demo")
        stack.pointsman("deny", approval["id"], "--reason", "not that")
        outcome = desk.outcome(recorder, approval)
        assert (outcome["decision"], outcome["applied"]) == ("denied", True)
        desk.results(recorder, "demo", 2)
        assert not (cwd / "denied").exists()

        stack.pointsman("send", "demo", "BASH touch at-screen ;; SAY three")
        approval = desk.pending("demo")
        desk.choose("demo", "Enter")  # the marked option is Yes
        outcome = desk.outcome(recorder, approval)
        assert (outcome["decision"], outcome["via"], outcome["applied"]) == ("cancelled", "hook", False)
        desk.results(recorder, "demo", 3)
        assert (cwd / "at-screen").exists()

        stack.pointsman("send", "demo", "BASH touch not-at-screen ;; SAY four")
        approval = desk.pending("demo")
        desk.choose("demo", "Escape")
        outcome = desk.outcome(recorder, approval)
        assert (outcome["decision"], outcome["applied"]) == ("cancelled", False)
        desk.until("demo", "waiting_input")
        assert not (cwd / "not-at-screen").exists()

        stack.pointsman("send", "demo", "BASH git push --force")  # waits for 3 s alone
        expired = eventually(
            lambda: [
                o for o in recorder.all("approvals/+/outcome")
                if o["decision"] == "expired" and o["applied"] is not None
            ],
            "it expires",
            PATIENCE_S,
        )  # fmt: skip
        assert [o["applied"] for o in expired] == [False]
        assert desk.dialog("demo").options[0] == "Yes", "the dialog stays"
        assert desk.until("demo", "waiting_approval")["pending_approvals"] == []
        desk.choose("demo", "Escape")
        desk.until("demo", "waiting_input")  # which no hook says

        stack.pointsman("send", "demo", "ASK Which colour?|red|blue ;; SAY five")
        approval = desk.pending("demo")
        assert (approval["kind"], approval["tool"]) == ("question", "AskUserQuestion")
        stack.pointsman("answer", approval["id"], "--text", "blue")
        assert desk.outcome(recorder, approval)["applied"] is True
        desk.results(recorder, "demo", 4)
        assert "→ blue" in desk.shown("demo")

        stack.pointsman("send", "demo", "ASK Which size?|small|big ;; SAY six")
        approval = desk.pending("demo")
        eventually(lambda: "1. small" in desk.shown("demo"), "its dialog", PATIENCE_S)
        for _ in range(3):  # again where it was pressed before the dialog listened
            desk.press("demo", "Enter")
            with contextlib.suppress(AssertionError):
                desk.results(recorder, "demo", 5, 20)
                break
        outcome = desk.outcome(recorder, approval)
        assert (outcome["decision"], outcome["via"], outcome["by"]) == ("cancelled", "hook", "screen")

        stack.pointsman("send", "demo", "STREAM 2000 50")
        eventually(lambda: "w9 w10" in desk.shown("demo"), "it speaks", PATIENCE_S)
        desk.press("demo", "Escape")  # a person
        desk.until("demo", "waiting_input")
        stack.pointsman("send", "demo", "WAIT 100000 ;; SAY never")
        desk.until("demo", "working")
        stack.pointsman("interrupt", "demo")  # before its first word: the prompt goes back into the line
        desk.until("demo", "waiting_input")
        desk.no_dialog("demo")

        assert desk.state("demo")["enforcement"] == "partial"
        eventually(
            lambda: (recorder.last("ledger/sessions/demo") or {"spent_usd": 0})["spent_usd"] > 0,
            "its cost is booked from the transcript",
            PATIENCE_S,
        )

        conversation = desk.state("demo")["agent"]["session_id"]
        stack.pointsman("end", "demo")
        desk.until("demo", "ended")

        # Its conversation, where the agent may do more by itself: the user's settings and its mode allow all
        # of this.
        (desk.user_home / ".claude" / "settings.json").write_text(json.dumps(ALLOWED))
        stack.pointsman(
            "new", "loose", "--kind", "interactive", "--cwd", str(cwd), "--resume", conversation,
            "--permission-mode", "acceptEdits", "--model", "claude-sonnet-4-6",
            "--prompt", "WRITE secret.txt x & BASH mkdir forbidden & BASH mkdir allowed ;; RECALL",
        )  # fmt: skip
        desk.results(recorder, "loose", 1)
        assert (cwd / "allowed").exists()
        assert not (cwd / "forbidden").exists()
        assert not (cwd / "secret.txt").exists()
        state = desk.until("loose", "waiting_input")
        assert (state["model"], state["permission_mode"]) == ("claude-sonnet-4-6", "acceptEdits")
        assert "Which colour?" in state["last_message"], "it goes on with the conversation"

        stack.pointsman("send", "loose", "STREAM 2000 50")
        eventually(lambda: "w9 w10" in desk.shown("loose"), "it speaks", PATIENCE_S)
        stack.pointsman("budget", "loose", "0.001")
        eventually(
            lambda: (desk.state("loose")["blocked"] or {}).get("by") == "budget",
            "its budget holds it",
            PATIENCE_S,
        )
        desk.until("loose", "waiting_input")
        refused = stack.pointsman("send", "loose", "SAY more", check=False)
        assert refused["error"]["code"] == "budget_exhausted"


def test_an_external_session_and_expiry_and_pointsman_down(desk: Desk) -> None:
    """Hooks installed, Claude Code started by hand: it appears and asks; with Pointsman gone it goes on."""
    desk.seed(trusted=True)
    stack, cwd = desk.stack, desk.cwd
    settings = desk.user_home / ".claude" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(before := '{\n    "theme": "dark"\n}\n')
    assert stack.pointsman("hooks", "install")["hooks"] == "installed"

    environment = [
        f"{key}={value}"
        for key, value in clean_env(desk.user_home, stack.environment["ANTHROPIC_BASE_URL"]).items()
    ]
    desk.tmux(
        "new-session", "-d", "-s", "mine", "-x", "120", "-y", "40", "-c", str(cwd), "--",
        "env", "-i", *environment, "TERM=screen-256color",
        str(claude_path(VERSION)), "--permission-mode", "default",
        server=desk.own,
    )  # fmt: skip
    try:
        with stack.recorder() as recorder:
            state = desk.until("work", "ready")
            assert (state["kind"], state["cwd"]) == ("external", str(cwd))
            type_(desk, "BASH touch by-hand ;; SAY done")
            approval = desk.pending("work")
            stack.pointsman("approve", approval["id"])
            assert desk.outcome(recorder, approval)["applied"] is True
            desk.results(recorder, "work", 1)
            assert (cwd / "by-hand").exists()
            refused = stack.run("interrupt", "work")
            assert refused.returncode == 1

            type_(desk, "BASH touch lost ;; SAY lost")
            approval = desk.pending("work")
            stack.kill("ingest")  # with it goes the connection that the agent waits on
            outcome = desk.outcome(recorder, approval)
            assert (outcome["decision"], outcome["applied"]) == ("cancelled", False)
            desk.dialog("mine", desk.own)
            assert desk.until("work", "waiting_approval")["pending_approvals"] == []
        stack.stop()
        desk.choose("mine", "Enter", desk.own)
        eventually(lambda: (cwd / "lost").exists(), "the tool runs without Pointsman", PATIENCE_S)
        desk.no_dialog("mine", desk.own)
        type_(desk, "BASH touch alone ;; SAY alone")
        desk.choose("mine", "Enter", desk.own)
        eventually(lambda: (cwd / "alone").exists(), "Claude Code goes on by itself", PATIENCE_S)
        stack.start()
        desk.no_dialog("mine", desk.own)
        type_(desk, "SAY back again")
        eventually(
            lambda: desk.state("work").get("last_message") == "back again", "it is followed again", PATIENCE_S
        )
        assert stack.pointsman("hooks", "remove")["hooks"] == "not installed"
        assert settings.read_text() == before
    finally:
        desk.tmux("kill-server", server=desk.own)
    desk.until("work", "ended")


def type_(desk: Desk, text: str) -> None:
    """A person types a prompt and sends it off."""
    desk.no_dialog("mine", desk.own)
    desk.tmux("send-keys", "-t", "=mine:", "-l", text, server=desk.own)
    eventually(
        lambda: screen.draft(desk.shown("mine", desk.own)) == text, "the text stands there", PATIENCE_S
    )
    desk.press("mine", "Enter", desk.own)
