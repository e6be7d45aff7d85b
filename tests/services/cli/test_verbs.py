"""Every verb: what it asks of whom, what it shows, its JSON, and how it ends when something is wrong."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bus import messages as m
from bus import topics as t
from bus.errors import BusDownError
from services.cli import watch
from services.cli.line import OFFLINE_S, READ_S, SILENT_S
from services.cli.logs import LogFile
from tests.services.cli.support import NOW, Result, Stage, cost, play, question, request, state, total


def test_without_a_verb(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        result = await stage.pointsman()
        assert result.code == 0
        assert "pointsman approve ID" in result.out
        assert "make run" in result.out

    play(stage, body)


def test_new(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.on(t.SESSION_CREATE, {"session": "demo", "status": "starting"})
        result = await stage.pointsman("new", "demo", "--cwd", "/work/../srv", "--budget", "none", "--json")
        assert (result.code, result.json) == (0, {"session": "demo", "status": "starting"})
        [(topic, sent)] = stage.asked
        assert topic == "sessions/create"
        assert (sent["session"], sent["cwd"], sent["budget_usd"]) == ("demo", "/srv", None)
        assert (sent["by"], sent["via"], sent["kind"]) == ("operator", "cli", "managed")
        result = await stage.pointsman("new", "demo")
        assert "budget_usd" not in stage.asked[-1][1]
        assert "pointsman watch demo" in result.out

    play(stage, body)


def test_new_is_refused(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.refuse(t.SESSION_CREATE, "name_taken", "a session 'demo' is running already", {"uid": "U"})
        result = await stage.pointsman("new", "demo", "--json")
        assert result.code == 1
        assert result.json == {
            "ok": False,
            "error": {
                "code": "name_taken",
                "message": "a session 'demo' is running already",
                "details": {"uid": "U"},
            },
        }
        assert result.err == "pointsman: a session 'demo' is running already [name_taken]\n"

    play(stage, body)


def test_ls(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.sessions(
            state(),
            state("alpha", status="waiting_approval", current_tool=None, last_message="I will\x1b[2J run it"),
            state("old", status="ended", last_message=None),
        )
        stage.say(t.LEDGER_SESSION, cost(), session="demo")
        result = await stage.pointsman("ls")
        assert result.code == 0
        lines = result.out.splitlines()
        assert lines[0].split() == ["SESSION", "STATUS", "FOR", "TURNS", "COST", "DIRECTORY", "DOING"]
        assert [line.split()[0] for line in lines[1:]] == ["alpha", "demo", "old"]
        assert "waiting approval" in lines[1]
        assert "\x1b" not in result.out
        assert "$0.0162" in lines[2]
        assert "5 min" in lines[2]
        assert all(line == line.rstrip() for line in lines)
        result = await stage.pointsman("ls", "--json")
        assert [one["session"] for one in result.json] == ["alpha", "demo", "old"]

    play(stage, body)


def test_ls_of_nothing(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        assert (await stage.pointsman("ls", "--json")).json == []
        assert "pointsman new NAME" in (await stage.pointsman("ls")).out

    play(stage, body)


def test_send(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.on(t.SESSION_PROMPT, {"queued_prompts": 0, "method": "bridge"})
        result = await stage.pointsman("send", "demo", "say", "hello")
        assert (result.code, result.out) == (0, "Sent.\n")
        assert stage.asked[0][0] == "sessions/demo/prompt"
        assert stage.asked[0][1]["text"] == "say hello"
        assert (await stage.pointsman("send", "demo", " ")).code == 2

    play(stage, body)


def test_hibernate_and_wake(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.on(t.SESSION_HIBERNATE, {"status": "hibernating"})
        result = await stage.pointsman("hibernate", "demo", "--reason", "for the night", "--json")
        assert (result.code, result.json) == (0, {"status": "hibernating"})
        topic, sent = stage.asked[-1]
        assert (topic, sent["reason"]) == ("sessions/demo/hibernate", "for the night")
        assert "the next prompt wakes it" in (await stage.pointsman("hibernate", "demo")).out
        stage.on(t.SESSION_WAKE, {"status": "waking"})
        result = await stage.pointsman("wake", "demo")
        assert (result.code, stage.asked[-1][0]) == (0, "sessions/demo/wake")
        stage.refuse(t.SESSION_WAKE, "breaker_open", "memory is short", {"retry_at": "2026-11-21T12:00:00Z"})
        result = await stage.pointsman("wake", "demo", "--json")
        assert (result.code, result.json["error"]["details"]) == (1, {"retry_at": "2026-11-21T12:00:00Z"})

    play(stage, body)


def test_an_external_session_is_not_ended(stage: Stage) -> None:
    """The tmux controller does not know it; it was started elsewhere."""

    async def body(stage: Stage) -> None:
        stage.sessions(state("demo", kind="external"))
        stage.refuse(t.SESSION_END, "unknown_session", "no living session 'demo'")
        result = await stage.pointsman("end", "demo")
        assert result.code == 1
        assert result.err.startswith("pointsman: demo is external: it is followed, not controlled")

    play(stage, body)


@pytest.mark.parametrize(
    "verb", [["send", "demi", "x"], ["interrupt", "demi"], ["end", "demi"], ["history", "demi"]]
)
def test_an_unknown_session(stage: Stage, verb: list[str]) -> None:
    """The refusal says which names are near."""

    async def body(stage: Stage) -> None:
        stage.sessions(state("demo"), state("other"), state("demx", status="ended"))
        for row in (t.SESSION_PROMPT, t.SESSION_INTERRUPT, t.SESSION_END, t.SESSION_HISTORY):
            stage.refuse(row, "unknown_session", "no living session 'demi'")
        result = await stage.pointsman(*verb)
        assert result.code == 1
        assert result.err == ("pointsman: no living session 'demi'; did you mean demo? [unknown_session]\n")

    play(stage, body)


@pytest.mark.parametrize("verb", [["watch", "nobody"], ["send", "No/Slug", "x"], ["attach", "nobody"]])
def test_no_session_of_that_name(stage: Stage, verb: list[str]) -> None:
    async def body(stage: Stage) -> None:
        stage.environ["PATH"] = "/usr/bin:/bin"
        stage.sessions(state("demo"))
        result = await stage.pointsman(*verb)
        assert result.code == 1
        assert "see `pointsman ls` [unknown_session]" in result.err

    play(stage, body)


def test_a_session_that_has_ended(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.sessions(state("old", status="ended"), state("odd"))
        stage.refuse(t.SESSION_PROMPT, "unknown_session", "old has ended")
        for verb in (["watch", "old"], ["send", "old", "hello"]):
            result = await stage.pointsman(*verb)
            assert result.code == 1
            assert "session old has ended; see `pointsman history old` [unknown_session]" in result.err

    play(stage, body)


def test_end_all(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.sessions(state("a"), state("b"), state("c", status="ended"))
        stage.on(t.SESSION_END, {})
        result = await stage.pointsman("end", "--all", "--json")
        assert (result.code, result.json) == (0, {"ended": ["a", "b"], "failed": {}})
        stage.refuse(t.SESSION_END, "busy", "not now")
        result = await stage.pointsman("end", "--all", "--json")
        assert result.code == 1
        assert result.json["failed"]["a"] == {"code": "busy", "message": "not now"}
        assert (await stage.pointsman("end")).code == 2
        assert (await stage.pointsman("end", "a", "--all")).code == 2

    play(stage, body)


def test_history_in_pages(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        said = {"type": "message", "role": "assistant", "at": "2026-11-21T08:00:00Z"}
        events: list[dict[str, Any]] = [{**said, "seq": n, "text": f"t{n}"} for n in range(1, 2501)]

        def page(command: dict[str, Any], _values: dict[str, str]) -> Any:
            rest = [event for event in events if event["seq"] > command["after_seq"]]
            return {"events": rest[: command["limit"]], "last_seq": 2500}

        stage.on(t.SESSION_HISTORY, page)
        result = await stage.pointsman("history", "demo", "--json")
        assert [event["seq"] for event in result.json["events"]] == list(range(1, 2501))
        result = await stage.pointsman("history", "demo", "--after", "10", "--limit", "3")
        assert [line.split()[-1] for line in result.out.splitlines()] == ["t11", "t12", "t13"]

    play(stage, body)


def test_approvals(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        assert (await stage.pointsman("approvals")).out == "Nothing waits for a decision.\n"
        stage.pending(
            request("bzzz", summary="rm -rf \u202e/ \x1b]0;x\x07"), request("aaaa", expires_at=None)
        )
        result = await stage.pointsman("approvals")
        lines = result.out.splitlines()
        assert lines[1].split()[:4] == ["bzzz", "demo", "Bash", "medium"]
        assert "\\u202e" in lines[1]
        assert "\x1b" not in result.out
        assert "never" in lines[2]
        result = await stage.pointsman("approvals", "--json")
        assert [one["id"] for one in result.json] == ["bzzz", "aaaa"]
        assert "\u202e" not in result.out
        assert result.json[0]["summary"] == "rm -rf \u202e/ \x1b]0;x\x07"

    play(stage, body)


@pytest.mark.parametrize("words", [["aaaa1111"], ["aaaa"], ["--oldest"]])
def test_approve(stage: Stage, words: list[str]) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(request("aaaa1111"), request("abbb"))
        stage.on(t.APPROVAL_DECISION, {"decision": "approved"})
        result = await stage.pointsman("approve", *words)
        assert (result.code, result.out) == (0, "Approved: Bash: touch x (session demo).\n")
        [(topic, sent)] = stage.asked
        assert topic == "approvals/aaaa1111/decision"
        assert (sent["decision"], sent["token"], sent["via"]) == ("approve", "token-aaaa1111", "cli")
        stage.on(t.APPROVAL_DECISION, {"decision": "approved", "updated_input": {"command": "ls"}})
        result = await stage.pointsman("approve", *words, "--input", '{"command": "ls"}')
        assert result.out.startswith("Approved with the input that you gave: Bash: touch x")

    play(stage, body)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["zzz"], 1, "unknown_approval"),
        (["a"], 1, "ambiguous"),
        ([], 2, "name an approval"),
        (["aaaa1111", "--oldest"], 2, "name an approval"),
        (["aqqq"], 1, "pointsman answer"),
        (["aaaa", "--input", "{"], 2, "not JSON"),
        (["aaaa", "--input", "[]"], 2, "JSON object"),
    ],
)
def test_approve_gone_wrong(stage: Stage, words: list[str], code: int, said: str) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(request("aaaa1111"), question("aqqq2222"))
        result = await stage.pointsman("approve", *words)
        assert result.code == code
        assert said in result.err
        assert stage.asked == []

    play(stage, body)


def test_approve_is_refused(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(request())
        stage.refuse(
            t.APPROVAL_DECISION, "already_decided", "it was denied by operator", {"decision": "denied"}
        )
        result = await stage.pointsman("approve", "--oldest", "--json")
        assert result.code == 1
        assert result.json["error"]["code"] == "already_decided"
        stage.pending(request("anew"), tokens=False)
        result = await stage.pointsman("approve", "anew")
        assert result.code == 1
        assert "has no token" in result.err

    play(stage, body)


def test_deny(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(request())
        stage.on(t.APPROVAL_DECISION, {"decision": "denied"})
        result = await stage.pointsman("deny", "--oldest", "--reason", "not here", "--interrupt", "--json")
        assert (result.code, result.json) == (0, {"decision": "denied"})
        sent = stage.asked[0][1]
        assert (sent["decision"], sent["reason"], sent["interrupt"]) == ("deny", "not here", True)

    play(stage, body)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--answer", "Which colour?=Blue"], "Blue"),
        (["--answer", "1=a=b"], "a=b"),
        (["--text", "Green, perhaps"], "Green, perhaps"),
    ],
)
def test_answer(stage: Stage, words: list[str], answer: str) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(question())
        stage.on(t.APPROVAL_DECISION, {"decision": "approved"})
        result = await stage.pointsman("answer", "aqqq", *words)
        assert result.code == 0, result.err
        assert stage.asked[0][1]["answers"] == {"Which colour?": answer}

    play(stage, body)


def test_answer_with_a_whole_input(stage: Stage) -> None:
    """What was cut for reading is asked for before it is answered."""

    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(question(input={"questions": "…"}, input_partial=True))
        stage.on(t.APPROVAL_SHOW, {"input": question().input})
        stage.on(t.APPROVAL_DECISION, {})
        assert (await stage.pointsman("answer", "aqqq", "--text", "Red")).code == 0
        assert stage.asked[-1][1]["answers"] == {"Which colour?": "Red"}

    play(stage, body)


@pytest.mark.parametrize(
    ("approval", "words", "code", "said"),
    [
        (question(), [], 2, "without a terminal"),
        (question(), ["--answer", "Which size?=Big"], 2, "answers none of the questions (1: Which colour?)"),
        (question(), ["--answer", "1="], 2, "answers none"),
        (question(), ["--answer", "1=x", "--text", "y"], 2, "--text answers a single question"),
        (request("aqqq2"), ["--text", "y"], 1, "pointsman approve"),
        (question(input={"questions": 7}), ["--text", "y"], 1, "cannot be read"),
    ],
)
def test_answer_gone_wrong(
    stage: Stage, approval: m.ApprovalRequest, words: list[str], code: int, said: str
) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(approval)
        result = await stage.pointsman("answer", "aqqq", *words)
        assert result.code == code
        assert said in result.err

    play(stage, body)


def test_answer_asks_a_person(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options by number; a number that is not there, or nothing, is asked again."""

    async def body(stage: Stage) -> None:
        stage.services()
        stage.pending(question())
        stage.on(t.APPROVAL_DECISION, {})
        said = iter(["", "3", "2"])
        monkeypatch.setattr("builtins.input", lambda _prompt: next(said))
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        result = await stage.pointsman("answer", "--oldest")
        assert result.code == 0
        assert "2. Blue" in result.out
        assert stage.asked[0][1]["answers"] == {"Which colour?": "Blue"}

    play(stage, body)


def test_cost(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        assert (await stage.pointsman("cost")).code == 1
        stage.say(t.LEDGER_TOTAL, total())
        stage.say(t.LEDGER_SESSION, cost(), session="demo")
        stage.say(t.LEDGER_SESSION, cost("other", notional=True), session="other")
        result = await stage.pointsman("cost")
        assert [line.split()[:2] for line in result.out.splitlines()[1:4]] == [
            ["demo", "$0.0162"], ["other", "$0.0162*"], ["all", "$0.0162"],
        ]  # fmt: skip
        result = await stage.pointsman("cost", "--json")
        assert result.json["total"]["spent_usd"] == 0.0162
        assert [one["session"] for one in result.json["sessions"]] == ["demo", "other"]
        assert len((await stage.pointsman("cost", "demo", "--json")).json["sessions"]) == 1
        result = await stage.pointsman("cost", "nobody")
        assert (result.code, "unknown_session" in result.err) == (1, True)
        assert "see `pointsman cost` [" in result.err
        result = await stage.pointsman("cost", "import")
        assert "say what to read: `pointsman cost import PATH…`" in result.err
        stage.say(t.LEDGER_SESSION, cost(running_usd=0.5), session="demo")
        result = await stage.pointsman("cost", "demo")
        assert result.out.splitlines()[1].split()[:3] == ["demo", "$0.0162", "+$0.5000"]
        assert "+ in the turn that runs now" in result.out

    play(stage, body)


def test_cost_by(stage: Stage) -> None:
    tokens = {"input": 1, "output": 2, "cache_read": 3, "cache_write": 4}
    rows = [
        {"key": "2026-11-20", "spent_usd": 1.25, "turns": 3, "tokens": tokens},
        {"key": "=cmd()", "spent_usd": 0, "turns": 1, "tokens": tokens, "unpriced": True},
    ]

    async def body(stage: Stage) -> None:
        stage.services()
        stage.on(t.LEDGER_QUERY, {"by": "day", "rows": rows, "total_usd": 1.25})
        result = await stage.pointsman("cost", "--by", "day", "--since", "2026-11-01T00:00:00Z")
        assert result.code == 0, result.err
        assert len(result.out.splitlines()[0]) < 80  # no wider than it needs to be
        assert [line.split()[:2] for line in result.out.splitlines()] == [
            ["DAY", "SPENT"], ["2026-11-20", "$1.25"], ["=cmd()", "unpriced"], ["all", "$1.25"],
            ["?,", "unpriced:"],
        ]  # fmt: skip
        _, command = stage.asked[-1]
        assert (command["by"], command["since"]) == ("day", "2026-11-01T00:00:00Z")
        result = await stage.pointsman("cost", "--csv", "--since", "7d")
        assert result.out.splitlines()[1].startswith("2026-11-20,,1.250000000000,0,3,1,2,3,4")
        assert result.out.splitlines()[2].startswith("'=cmd(),,0.000000000000,1")
        assert stage.asked[-1][1]["by"] == "session"
        assert (await stage.pointsman("cost", "--by", "model", "--json")).json["total_usd"] == 1.25
        for wrong in (["--since", "soon"], ["demo", "--by", "day"], ["demo", "more"]):
            assert (await stage.pointsman("cost", *wrong)).code == 2

    play(stage, body)


def test_cost_import(stage: Stage) -> None:
    counts = {"files": 1, "lines": 1200, "added": 7, "duplicates": 12, "broken": 2}
    (stage.folder / "past").mkdir()

    async def body(stage: Stage) -> None:
        stage.services()
        stage.on(t.LEDGER_IMPORT, counts)
        result = await stage.pointsman("cost", "import", str(stage.folder / "past"), "--json")
        assert (result.code, {k: v for k, v in result.json.items() if v}) == (0, counts)
        assert stage.asked[-1][1]["paths"] == [str(stage.folder / "past")]
        result = await stage.pointsman("cost", "import", str(stage.folder / "past"))
        assert "1,200 lines: 7 calls of models added." in result.out
        assert "2 lines could not be read" in result.out
        assert (await stage.pointsman("cost", "import", str(stage.folder / "gone"))).code == 2

    play(stage, body)


def test_what_comes_slowly_is_waited_for(stage: Stage) -> None:
    """A broker under load: no session of the index is missing from the list."""
    states = [state(f"s{number}") for number in range(5)]

    async def body(stage: Stage) -> None:
        stage.sessions(*states)
        for one in states:
            stage.say(t.SESSION_STATE, None, session=one.session)

        async def slowly() -> None:
            for one in states:
                await trio.sleep(READ_S - 0.5)
                stage.say(t.SESSION_STATE, one, session=one.session)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slowly)
            listed = await stage.pointsman("ls", "--json")
        assert len(listed.json) == len(states)

    play(stage, body)


@pytest.mark.parametrize(
    "verb", [("cost", "import", "."), ("cost", "check"), ("audit", "verify"), ("policy", "replay")]
)
@pytest.mark.parametrize(("status", "after_s"), [("offline", OFFLINE_S), ("online", SILENT_S)])
def test_what_takes_long_is_not_waited_for_where_nobody_is_at_work(
    stage: Stage, verb: tuple[str, ...], status: str, after_s: float
) -> None:
    async def body(stage: Stage) -> None:
        stage.services(ledger=status, approvals=status)
        began = trio.current_time()
        result = await stage.pointsman(*verb)
        assert result.code == 1
        assert "service does not answer: see `pointsman health`" in result.err
        assert after_s <= trio.current_time() - began < after_s + 1

    play(stage, body)


def test_an_import_is_waited_for_as_long_as_the_ledger_lives(stage: Stage) -> None:
    counts = {"files": 1, "lines": 2, "added": 2, "duplicates": 0, "broken": 0}

    async def body(stage: Stage) -> None:
        stage.services()
        result: list[Result] = []

        async def read_in() -> None:
            result.append(await stage.pointsman("cost", "import", "."))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_in)
            for _ in range(20):  # its heartbeats, while it reads
                await trio.sleep(10)
                stage.services()
            stage.on(t.LEDGER_IMPORT, counts)
        assert (result[0].code, result[0].err) == (0, "")

    play(stage, body, within_s=400)


def test_a_drift_is_told(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.say(t.LEDGER_TOTAL, total())
        more: dict[str, Any] = {
            "drift_usd": -0.5,
            "drift_cause": "its prices are old",
            "unpriced": ["my-model"],
        }
        stage.say(t.LEDGER_SESSION, cost(**more), session="demo")
        out = (await stage.pointsman("cost")).out
        assert "demo: $0.5000 less than its transcripts say: its prices are old." in out
        assert "demo: no price is known for my-model." in out
        more["drift_cause"] = "there is no price for my-model"
        stage.say(t.LEDGER_SESSION, cost(**more), session="demo")
        stage.say(t.LEDGER_SESSION, cost("other", **more), session="other")
        lines = (await stage.pointsman("cost")).out.splitlines()
        assert lines[-1] == "demo, other: no price is known for my-model."
        assert not any("transcripts" in line for line in lines)  # the missing price is why

    play(stage, body)


def test_budget(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.on(t.LEDGER_SESSION_BUDGET, {})
        stage.on(t.LEDGER_BUDGET, {})
        assert (
            await stage.pointsman("budget", "demo", "$2.50")
        ).out == "Session demo may spend $2.50 in all.\n"
        assert stage.asked[-1][0] == "ledger/sessions/demo/budget"
        assert stage.asked[-1][1]["budget_usd"] == 2.5
        assert (await stage.pointsman("budget", "day", "none", "--node")).code == 0
        assert stage.asked[-1][0] == "ledger/budgets/day"
        assert stage.asked[-1][1]["budget_usd"] is None
        for wrong in ("much", "-1", "nan", "inf"):
            assert (await stage.pointsman("budget", "demo", wrong)).code == 2
        assert (await stage.pointsman("budget", "demo", "--day", "5")).code == 2
        assert (await stage.pointsman("budget", "year", "5", "--node")).code == 2

    play(stage, body)


def test_budgets_of_the_node_and_what_is_left(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        day = m.Period(spent_usd=1.5, budget_usd=20.0, remaining_usd=18.5, level="abundant", since=NOW)
        stage.on(t.LEDGER_BUDGET, {"periods": {"day": msgspec.to_builtins(day)}})
        stage.on(t.LEDGER_SESSION_BUDGET, {"remaining_usd": 0.0, "level": "exhausted"})
        result = await stage.pointsman("budget", "demo", "1", "--day", "20", "--month", "none")
        assert result.out.splitlines() == [
            "This node (day) may spend $20.00 in all. $18.50 are left.",
            "This node (month) has no budget any more.",
            "Session demo may spend $1.00 in all. All of it is spent.",
        ]
        assert [topic for topic, _ in stage.asked] == [
            "ledger/budgets/day", "ledger/budgets/month", "ledger/sessions/demo/budget",
        ]  # fmt: skip

    play(stage, body)


def test_showing_budgets(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        spent = cost("web", spent_usd=9.0, running_usd=1.5, remaining_usd=0.0, level="exhausted")
        soon, later = NOW + timedelta(minutes=30), NOW + timedelta(hours=2)
        burning = cost(exhausted_at=NOW + timedelta(hours=1), exhausted_between=(soon, later))
        for row in (spent, burning):
            stage.say(t.LEDGER_SESSION, row, session=row.session)
        day = m.Period(spent_usd=10.0, budget_usd=20.0, remaining_usd=8.5, level="moderate", since=NOW)
        week = m.Period(spent_usd=10.0, budget_usd=None, since=NOW)
        limit = m.LimitWindow(window="five_hour", utilization=0.91, resets_at=later)
        stage.say(
            t.LEDGER_TOTAL,
            msgspec.structs.replace(total(), periods={"day": day, "week": week}, limits=[limit]),
        )
        result = await stage.pointsman("budget")
        assert result.out.splitlines() == [
            "demo: $0.0162 of $10.00 spent, $9.98 left (abundant).",
            "web: $10.50 of $10.00 spent, $0.00 left (exhausted).",
            "demo: at this rate its budget is spent in 1 h (between 30 min and 2 h).",
            "web: its budget is spent; raise it with `pointsman budget web USD`.",
            "This node today: $11.50 of $20.00 spent, $8.50 left (moderate).",
            "Usage limit five_hour: 91% used, reset in 2 h.",
        ]
        costs = (await stage.pointsman("cost")).out
        assert all(line in costs for line in result.out.splitlines()[2:])
        shown = (await stage.pointsman("budget", "--json")).json
        assert shown["periods"]["day"]["remaining_usd"] == 8.5
        assert [row["level"] for row in shown["sessions"]] == ["abundant", "exhausted"]
        assert (await stage.pointsman("budget", "nobody")).code == 1
        assert (await stage.pointsman("budget", "web")).out.startswith("web: $10.50 of $10.00 spent")

    play(stage, body)


def test_health(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        result = await stage.pointsman("health", "--json")
        assert (result.code, result.json["ok"], result.json["node"]) == (0, True, "node")
        assert {one["status"] for one in result.json["services"].values()} == {"online"}
        assert result.json["services"]["ledger"]["rss_bytes"] == 40 * 2**20
        result = await stage.pointsman("health")
        assert result.out.splitlines()[1].split()[:2] == ["broker", "online"]

    play(stage, body)


@pytest.mark.parametrize(("what", "status"), [("offline", "offline"), ("stale", "stale"), ("mute", "stale")])
def test_health_judges_by_itself(stage: Stage, what: str, status: str) -> None:
    """The watchdog itself may be the one that is gone."""

    async def body(stage: Stage) -> None:
        stage.services(watchdog=what)
        result = await stage.pointsman("health", "--json")
        assert result.code == 1
        assert result.json["services"]["watchdog"]["status"] == status
        result = await stage.pointsman("health")
        assert "pointsman logs watchdog" in result.out

    play(stage, body)


def test_health_of_an_empty_bus(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        result = await stage.pointsman("health", "--json")
        assert result.code == 1
        assert {one["status"] for one in result.json["services"].values()} == {"offline"}

    play(stage, body)


def test_bus(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        result = await stage.pointsman("bus")
        assert (result.code, "make run" in result.err) == (3, True)
        stage.home.update_endpoints("bus", {"host": "127.0.0.1", "port": 1884, "ws_port": 9002})
        assert (await stage.pointsman("bus")).code == 1
        file = stage.home.write_secret("bus/operator", "secret")
        result = await stage.pointsman("bus", "--json")
        assert result.json == {
            "host": "127.0.0.1", "port": 1884, "ws_port": 9002, "root": "pointsman", "node": "node",
            "username": "operator", "role": "operator", "password_file": str(file),
        }  # fmt: skip
        assert "secret" not in (await stage.pointsman("bus")).out.replace("secrets", "")
        assert (await stage.pointsman("bus", "--user", "../x")).code == 1
        stage.home.write_secret("bus/service-ingest", "s")
        assert (await stage.pointsman("bus", "--user", "service-ingest", "--json")).json["role"] == "service"
        stage.environ |= {"POINTSMAN_BUS_BROKER": "external", "POINTSMAN_BUS_PORT": "18883"}
        theirs = (await stage.pointsman("bus", "--json")).json
        assert (theirs["port"], theirs["ws_port"]) == (18883, None), "it is known to nobody here"

    play(stage, body)


def test_what_bus_shows_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the home lies on a path with spaces."""

    async def body(stage: Stage) -> None:
        stage.home.update_endpoints("bus", {"host": "127.0.0.1", "port": 1884, "ws_port": 9002})
        file = stage.home.write_secret("bus/operator", "secret")
        shown = (await stage.pointsman("bus")).out.partition("example")[2]
        read = re.search(r"\$\((.*?)\)", shown)
        assert read is not None
        assert shlex.split(read[1]) == ["cat", str(file)]

    play(Stage(tmp_path / "my files", capsys), body)


def test_logs(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        assert (await stage.pointsman("logs")).code == 1
        (stage.home.logs / "ingest.log").write_text(
            '{"at":"2026-11-21T08:00:02.000Z","service":"ingest","level":"error","event":"late","n":"\\u001b[2J"}\n'
        )
        (stage.home.logs / "tmux.log").write_text(
            '{"at":"2026-11-21T08:00:01.000Z","service":"tmux","level":"info","event":"early"}\nnot JSON\n'
        )
        result = await stage.pointsman("logs", "--json")
        assert [one["event"] for one in result.json] == ["early", "not JSON", "late"]
        result = await stage.pointsman("logs", "ingest")
        assert result.out == "2026-11-21 08:00:02 ingest     late n=\\x1b[2J\n"
        assert "ingest, tmux" in (await stage.pointsman("logs", "nothing")).err

    play(stage, body)


def test_logs_of_a_session_are_what_every_service_says_of_it(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        for hour, service in enumerate(("tmux", "ingest")):
            lines = [
                f'{{"at":"2026-11-21T0{hour}","event":"{s}","session":"{s}"}}' for s in ("demo", "demo2")
            ]
            (stage.home.logs / f"{service}.log").write_text("\n".join([*lines, "about demo, not JSON", ""]))
        result = await stage.pointsman("logs", "demo", "--json")
        assert [one["at"] for one in result.json] == ["2026-11-21T00", "2026-11-21T01"]
        result = await stage.pointsman("logs", "demo3")
        assert (result.code, "no session 'demo3'" in result.err) == (1, True)

    play(stage, body)


def test_logs_are_followed_in_all_services(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        names = ("ingest", "tmux")
        for name in names:
            (stage.home.logs / f"{name}.log").write_text('{"event":"before"}\n')

        async def write() -> None:
            await trio.sleep(0.5)
            for name in names:
                with (stage.home.logs / f"{name}.log").open("a") as file:
                    file.write(f'{{"event":"\\u001b[2J later in {name}"}}\n')

        with trio.move_on_after(2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                await stage.pointsman("logs", "--follow", "--json")
        said = [json.loads(line)["event"] for line in stage.capsys.readouterr().out.splitlines()]
        assert said == ["before", "before", "\x1b[2J later in ingest", "\x1b[2J later in tmux"]

    play(stage, body)


def test_a_log_is_read_on_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    """No line is missed and none is shown twice, by a reader that looks now and then."""
    path, old = tmp_path / "x.log", tmp_path / "x.log.1"
    file = LogFile(path)
    assert list(file.new_lines()) == []
    path.write_text("1\n2\nha")
    assert list(file.new_lines()) == ["1", "2"]
    with path.open("a") as writer:
        writer.write("lf\n3\n")
    path.rename(old)
    assert list(file.new_lines()) == ["half", "3"]
    with old.open("a") as writer:
        writer.write("4\n")
    path.write_text("5\n")
    assert list(file.new_lines()) == ["4", "5"]
    assert list(file.older_lines()) == ["1", "2", "half", "3", "4"]
    path.unlink()
    assert list(file.new_lines()) == []
    path.write_text("6\n77\n")
    assert list(file.new_lines()) == ["6", "77"]
    path.write_bytes(b"\xff\n")  # cut, as logrotate's copytruncate does
    assert list(file.new_lines()) == ["\ufffd"]
    file.close()


def test_after_a_rotation_the_older_file_fills_up(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        (stage.home.logs / "tmux.log.1").write_text("".join(f'{{"at":"{n}"}}\n' for n in range(5)))
        (stage.home.logs / "tmux.log").write_text('{"at":"5"}\n')
        result = await stage.pointsman("logs", "tmux", "--lines", "3", "--json")
        assert [one["at"] for one in result.json] == ["3", "4", "5"]

    play(stage, body)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(stage: Stage, shell: str) -> None:
    async def body(stage: Stage) -> None:
        result = await stage.pointsman("completion", shell)
        assert result.code == 0
        assert "pointsman" in result.out

    play(stage, body)


def event(kind: str, seq: int, **more: Any) -> m.Payload:
    given = {"session": "demo", "uid": "01DEMO", "seq": seq, "at": NOW, **more}
    return m.EVENT_TYPES[kind](**given)


RESULT = {
    "prompt_ids": ["p"],
    "model": "x",
    "num_turns": 1,
    "total_cost_usd": 0.5,
    "usage": {},
    "subtype": "success",
}
HAPPENED = (
    event("prompt", 1, prompt_id="p", text="do it", phase="queued", by="operator"),
    event("prompt", 2, prompt_id="p", text="do it", phase="delivered", by="operator"),
    event("tool", 3, phase="started", tool="Bash", tool_use_id="t", summary="ls\x1b[8m"),
    event("tool", 4, phase="finished", tool="Bash", tool_use_id="t", output="a\nb", is_error=False),
    event("message", 5, role="assistant", message_id="m", text="[b]done[/b]", blocks=[]),
    event("result", 6, cost_usd=0.5, duration_ms=1500, is_error=False, **RESULT),
    event("status", 7, from_="working", to="waiting_input", reason="the turn has ended"),
)


@pytest.mark.parametrize("as_json", [False, True])
def test_watch(stage: Stage, as_json: bool) -> None:
    async def happen() -> None:
        await trio.sleep(30)  # virtual: the command has long been listening
        for payload in HAPPENED:
            stage.say(t.SESSION_EVENT, payload, session="demo", type=getattr(payload, "type"))  # noqa: B009
        stage.pending(request())

    async def body(stage: Stage) -> None:
        stage.sessions(state())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(happen)
            if as_json:
                result = await stage.pointsman("watch", "--json", "--count", "7")
                assert [msgspec.json.decode(line)["seq"] for line in result.out.splitlines()] == list(
                    range(1, 8)
                )
            else:
                result = await stage.pointsman("watch", "demo", "--count", "6")
                _, waits, *shown = result.out.splitlines()
                assert waits == "? demo waits: Bash: touch x  → pointsman approve aaaa1111"
                assert [line[9:] for line in shown] == [
                    "❯ do it", "● Bash: ls\\x1b[8m", "  ⎿ a b", "[b]done[/b]", "✓ 2 s, $0.5000",
                    "waiting input (the turn has ended)",
                ]  # fmt: skip
        assert result.code == 0

    play(stage, body)


def test_the_bus_is_down(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        def connect(*_: object) -> Any:
            raise BusDownError("nothing listens at 127.0.0.1:1883")

        stage.connect = connect  # type: ignore[method-assign, assignment]  # the world's part
        for verb in (["ls"], ["health"], ["approve", "a"], ["send", "a", "b"], ["end", "--all"]):
            result = await stage.pointsman(*verb)
            assert result.code == 3, verb
            assert "make run" in result.err
            assert "pointsman doctor" in result.err
        assert (await stage.pointsman("ls", "--json")).json["error"]["code"] == "unavailable"
        result = await stage.pointsman("doctor", "--json")
        assert result.code == 1
        found = {check["name"]: check["status"] for check in result.json["checks"]}
        assert found["services"] == "missing"
        assert found["python"] == "ok"

    play(stage, body)


def test_an_owner_that_is_away(stage: Stage) -> None:
    """Nobody answers: the refusal names the service, and how to look after it."""

    async def body(stage: Stage) -> None:
        result = await stage.pointsman("interrupt", "demo")
        assert result.code == 1
        assert "no answer from the ingest service" in result.err
        assert "pointsman logs ingest" in result.err

    play(stage, body)


def test_a_bad_configuration(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.environ["POINTSMAN_BUS_PORT"] = "many"
        result = await stage.pointsman("ls")
        assert result.code == 2
        assert "bus.port" in result.err

    play(stage, body)


def test_a_configuration_that_only_services_refuse(stage: Stage) -> None:
    """Somebody edits it while approvals wait: the bus is where it was."""

    async def body(stage: Stage) -> None:
        stage.environ["POINTSMAN_CONFIG"] = str(stage.folder / "config.toml")
        (stage.folder / "config.toml").write_text("[approvals]\ntimeoutt_s = 5\n")
        stage.sessions(state())
        result = await stage.pointsman("ls", "--json")
        assert (result.code, [found["session"] for found in result.json]) == (0, ["demo"])
        assert "no service would start with this configuration:\napprovals.timeoutt_s = 5" in result.err

    play(stage, body)


@pytest.mark.parametrize(
    "argv",
    [["nonsense"], ["new"], ["approve", "a", "--nonsense"], ["watch", "--count", "0"], ["completion", "sh"]],
)
def test_wrong_usage(stage: Stage, argv: list[str]) -> None:
    async def body(stage: Stage) -> None:
        assert (await stage.pointsman(*argv)).code == 2

    play(stage, body)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["aprove", "x"], "no verb 'aprove': did you mean approve"),
        (["zzzz"], "there are: new, ls, watch"),
        (["answer", "x", "red"], "unrecognized arguments: red\nSee `pointsman answer --help`"),
        (["end", "demo", "--all"], "name a session, or give --all (and not both)"),
        (["policy", "check", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["cost", "--by", "day", "demo"], "leave NAME out"),
        (["--nonsense"], "See `pointsman --help`"),
        (["new"], "See `pointsman new --help`"),
    ],
)
def test_wrong_usage_says_what_to_do(stage: Stage, argv: list[str], said: str) -> None:
    async def body(stage: Stage) -> None:
        result = await stage.pointsman(*argv)
        assert result.code == 2
        assert said in result.err
        assert result.out == ""
        told = await stage.pointsman(*argv, "--json")
        assert (told.code, told.json["ok"], told.json["error"]["code"]) == (2, False, "bad_request")
        assert said in told.json["error"]["message"]

    play(stage, body)


def test_whoever_reads_what_is_watched_may_go(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_what: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    async def body(stage: Stage) -> None:
        monkeypatch.setattr(watch, "say", gone)
        with pytest.raises(BrokenPipeError):  # and no group of errors around it
            await stage.pointsman("watch")

    play(stage, body)


def test_version(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        result = await stage.pointsman("--version")
        assert (result.code, result.out) == (0, f"pointsman {importlib.metadata.version('pointsman')}\n")

    play(stage, body)


def test_every_verb_takes_json_and_help(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        verbs = (
            "new ls watch send interrupt end attach history approvals approve deny answer cost budget "
            "health logs bus doctor completion"
        )
        for verb in verbs.split():
            result = await stage.pointsman(verb, "--help")
            assert result.code == 0, verb
            assert "--json" in result.out, verb

    play(stage, body)
