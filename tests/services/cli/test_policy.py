"""The verbs about the policy: what is sent, and what a person reads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from bus import topics as t
from tests.services.cli.support import NOW, Stage, play, request, state

EXPLAINED: dict[str, Any] = {
    "decision": "deny", "rule": "no push", "level": "high", "reason": "the release job pushes",
    "impact": "others get it", "danger": {"level": "high", "reason": "Bash pushes", "impact": ""},
    "required": 1, "timeout_s": 60, "every_mode": True, "commands": [["git", None]], "complete": False,
    "paths": [], "rules": [{"rule": "no push", "decision": "deny", "match": "yes"}],
}  # fmt: skip


def test_check(stage: Stage) -> None:
    file = stage.folder / "new.toml"
    file.write_text("[approvals]\n")

    async def body(stage: Stage) -> None:
        stage.on(t.POLICY, {"ok": True, "rules": 2, "mistakes": [], "warnings": ["rule 2: is never reached"]})
        result = await stage.pointsman("policy", "check", str(file))
        assert result.code == 0
        assert "warning: rule 2: is never reached" in result.out
        assert "is good: 2 rules." in result.out
        assert stage.asked[0][0].endswith("policy/check")
        assert stage.asked[0][1]["toml"] == "[approvals]\n"
        stage.on(t.POLICY, {"ok": False, "rules": 0, "mistakes": ["rule 1: no"], "warnings": []})
        result = await stage.pointsman("policy", "check", str(file))
        assert result.code == 1
        assert "rule 1: no" in result.out
        result = await stage.pointsman("policy", "check", "/no/such/file")
        assert result.code == 2

    play(stage, body)


def test_explain(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.sessions(state())
        stage.on(t.POLICY, EXPLAINED)
        result = await stage.pointsman(
            "policy", "explain", "Bash", '{"command":"git $x"}', "--session", "demo"
        )
        sent = stage.asked[0][1]
        assert (sent["tool"], sent["input"], sent["cwd"], sent["session"]) == (
            "Bash", {"command": "git $x"}, "/work/shop", "demo",
        )  # fmt: skip
        assert result.out.startswith("deny  the release job pushes")
        assert "in every permission mode" in result.out
        assert "git … (and what cannot be read)" in result.out
        result = await stage.pointsman("policy", "explain", "Bash", "{}", "--cwd", "/srv", "--json")
        assert result.json == {**EXPLAINED, "note": None}
        assert stage.asked[-1][1]["cwd"] == "/srv"
        result = await stage.pointsman(
            "policy", "explain", "Bash", "{}", "--session", "demo", "--cwd", "/srv", "--json"
        )
        assert (stage.asked[-1][1]["cwd"], stage.asked[-1][1]["uid"]) == ("/srv", state().uid)
        result = await stage.pointsman("policy", "explain", "Bash", "{}", "--session", "nobody")
        assert result.code == 0  # a rule may be tried before there is a session of that name
        assert result.out.startswith("there is no session nobody: judged as if it were one, in /")
        assert (await stage.pointsman("policy", "explain", "Bash", "git push")).code == 2
        assert (await stage.pointsman("policy", "explain", "Bash", "[]")).code == 2

    play(stage, body)


def test_replay(stage: Stage) -> None:
    entry = {
        "id": "a1", "at": NOW.isoformat(), "session": "demo", "tool": "Bash", "summary": "Bash: git push",
        "was": "ask", "was_rule": None, "decided": "approved", "would": "deny", "would_rule": "no push",
        "reason": "",
    }  # fmt: skip

    async def body(stage: Stage) -> None:
        found = {
            "looked_at": 3,
            "calls": 7,
            "different": 1,
            "changes": {"ask → deny": 1},
            "differences": [entry],
        }
        stage.on(t.POLICY, found)
        result = await stage.pointsman("policy", "replay", "--since", "24h")
        assert result.code == 0
        assert "no push" in result.out
        assert "3 decisions and 7 calls that agents ran by themselves looked at" in " ".join(
            result.out.split()
        )
        assert stage.asked[0][1]["since"].startswith((NOW - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M"))
        assert (await stage.pointsman("policy", "replay", "--since", "yesterday")).code == 2
        assert (await stage.pointsman("policy", "replay", "--json")).json == found

    play(stage, body)


def test_rules_and_forget(stage: Stage) -> None:
    remembered = {
        "id": "r-1", "decision": "allow", "summary": "Bash: make", "directory": "/work", "uid": None,
        "by": "ada",
    }  # fmt: skip
    rule = {
        "name": "no push",
        "decision": "deny",
        "command": ["git push"],
        "reason": "the release job pushes",
    }

    async def body(stage: Stage) -> None:
        stage.on(t.POLICY, {"rules": [rule], "remembered": [remembered], "auto_approve": ["Read"]})
        result = await stage.pointsman("policy", "rules")
        assert "deny  no push: command git push; reason the release job pushes" in result.out
        assert "allow r-1: Bash: make in /work (always; remembered by ada)" in result.out
        stage.on(t.POLICY, remembered)
        result = await stage.pointsman("policy", "forget", "r-1")
        assert result.out == "Forgotten: Bash: make. It is asked about again.\n"
        assert stage.asked[-1][1]["rule"] == "r-1"
        stage.on(t.POLICY, {"ok": True, "rules": 1, "mistakes": [], "warnings": []})
        result = await stage.pointsman("policy", "reload")
        assert result.out == "the policy in force now is good: 1 rule.\n"
        stage.refuse(t.POLICY, "bad_request", "the rules in force stay: …")
        assert (await stage.pointsman("policy", "reload")).code == 1

    play(stage, body)


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_decision_is_remembered(stage: Stage, verb: str) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(request())
        stage.on(t.APPROVAL_DECISION, {"decision": verb, "remembered": "r-1"})
        result = await stage.pointsman(verb, "--oldest", "--remember", "session")
        assert stage.asked[0][1]["remember"] == "session"
        assert "`pointsman policy forget r-1` takes it back" in result.out

    play(stage, body)


def test_doctor_tells_where_rules_do_not_reach(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.sessions(state(enforcement="full"), state("old", enforcement="partial"))
        result = await stage.pointsman("doctor", "--json")
        [check] = [check for check in result.json["checks"] if check["name"] == "policy"]
        assert check["status"] == "warn"
        assert check["found"] == "rules do not reach every tool call of old (partial)"

    play(stage, body)
