"""The service on a bus in memory and a virtual clock: wiring, time, restarts, and what peers may send."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from bus import codec
from bus import messages as m
from bus import topics as t
from services._process.errors import HomeError
from services._process.station import ACKNOWLEDGE_S
from services.approvals import audit
from services.approvals.keys import KEY
from tests.services.approvals.stand import Run, Stack, settle
from tests.services.approvals.support import question


def test_the_way_of_one_approval(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running() as shell:
            await s.ask(input_json='{"command": "make deploy"}')
            await trio.sleep(2 * ACKNOWLEDGE_S)
            assert s.said(t.ACKS) == [{"ids": ["question-a1"], "refused": []}]
            request = s.standing(t.APPROVAL_REQUEST, id="a1")
            assert (request["tool"], request["danger"]["level"]) == ("Bash", "high")
            assert s.standing(t.APPROVALS_PENDING)["count"] == 1
            assert s.figure("pointsman_approvals_pending") == 1
            await s.decide(reason="go on")
            (answer,) = s.answers()
            assert (answer.decision, answer.input_json) == ("approved", '{"command": "make deploy"}')
            assert s.standing(t.APPROVAL_REQUEST, id="a1") is None
            assert s.standing(t.APPROVAL_TOKEN, id="a1", user="operator") is None
            assert s.standing(t.APPROVALS_PENDING) == {
                "count": 0,
                "oldest_id": None,
                "oldest_at": None,
                "items": [],
            }
            (reply,) = s.said(t.REPLIES, id="c1")
            (outcome,) = s.said(t.APPROVAL_OUTCOME, id="a1")
            assert reply == {"id": "c1", "ok": True, "result": outcome}
            assert (outcome["by"], outcome["via"], outcome["applied"]) == ("operator", "bus", None)
            await s.tell("applied", m.AnswerApplied(approval="a1", applied=True), "applied-a1")
            assert s.said(t.APPROVAL_OUTCOME, id="a1") == [outcome, {**outcome, "applied": True}]
            assert s.figure("pointsman_approvals_total", decision="approved", via="bus", level="high") == 1
            assert s.figure("pointsman_approval_latency_seconds_count", via="bus") == 1
            actions = [row.action for row in shell.store.audit_rows()]
            assert actions == ["request", "decision", "outcome", "applied"]
            assert audit.verify(shell.store.audit_rows(), shell.store.audit_head()).broken is None

    run(test)


def test_the_order_on_the_wire_is_request_tokens_pending(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            mark = len(s.broker.log)
            await s.ask()
            mine = [
                x.topic.removeprefix("pointsman/node/")
                for x in s.broker.log[mark:]
                if x.sender == "approvals"
            ]
            snapshots = [topic for topic in mine if topic.startswith("approvals/")]
            assert snapshots == ["approvals/a1/request", "approvals/a1/tokens/operator", "approvals/pending"]

    run(test)


def test_time_runs_out_to_the_second(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await trio.sleep(1000)  # nothing waits: nobody wakes
            await s.ask()
            await s.ask("a2", kind="plan", tool="ExitPlanMode")
            await trio.sleep(59.99)
            assert s.answers() == []
            await trio.sleep(0.02)
            assert {(answer.approval, answer.decision) for answer in s.answers()} == {("a1", "expired")}
            await trio.sleep(10**4)
            assert s.standing(t.APPROVALS_PENDING)["count"] == 1

    run(test)


def test_the_wall_clock_is_looked_at_every_second(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            await trio.sleep(0.5)
            s.ahead = timedelta(hours=1)
            await trio.sleep(1.0)
            assert s.answers()[0].decision == "expired"
            s.ahead = timedelta(hours=-1)
            await s.ask("a2")
            await trio.sleep(59)
            assert {a.approval for a in s.answers()} == {"a1"}
            await trio.sleep(1.01)
            assert s.answers()[-1].approval == "a2"

    run(test)


def test_a_restart_says_what_waits_and_clears_what_does_not(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask("a1", kind="plan", tool="ExitPlanMode")
            await s.ask("a2")
            token = s.standing(t.APPROVAL_TOKEN, id="a1", user="operator")
        await s.send("approvals/forged/request", {"id": "forged"}, retain=True)
        await s.send("approvals/a1/tokens/mallory", {"id": "a1", "token": "x"}, retain=True)
        await s.send("approvals/a1/request", {"id": "a1", "tool": "harmless"}, retain=True)
        await trio.sleep(120)
        async with s.running():
            assert s.answers()[0].approval == "a2"  # it expired while nobody was here
            assert s.standing(t.APPROVAL_TOKEN, id="a1", user="operator") == token
            assert s.standing(t.APPROVAL_REQUEST, id="a1")["tool"] == "ExitPlanMode"
            assert s.standing(t.APPROVAL_REQUEST, id="a2") is None
            assert s.standing(t.APPROVAL_REQUEST, id="forged") is None
            assert s.standing(t.APPROVAL_TOKEN, id="a1", user="mallory") is None
            assert s.standing(t.APPROVALS_PENDING)["count"] == 1
            await s.decide()
            assert s.answers()[-1].approval == "a1"
        async with s.running():
            assert s.standing(t.APPROVALS_PENDING)["count"] == 0

    run(test)


def test_a_broker_that_lost_everything_is_told_again(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            before = dict(s.broker.retained)
            s.broker.restart()
            await settle()
            approvals = {topic: raw for topic, raw in before.items() if "/approvals/" in topic}
            assert approvals.items() <= s.broker.retained.items()
            await s.decide()
            assert s.answers()[0].decision == "approved"

    run(test)


def test_an_answer_is_sent_until_ingest_has_kept_it(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            await s.decide()
        async with s.running():
            await trio.sleep(12)
            assert len(s.answers()) >= 3
            assert len({msgspec.json.encode(answer) for answer in s.answers()}) == 1
            s.ingest.publish(t.ACKS, m.Ack(ids=["answer-a1"]), owner="ingest", producer="approvals")
            await settle()
            count = len(s.answers())
            await trio.sleep(60)
            assert len(s.answers()) == count

    run(test)


def test_the_same_command_acts_once_and_a_question_that_comes_again_is_acknowledged_again(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running() as shell:
            for _ in range(2):
                await s.ask()
                await trio.sleep(2 * ACKNOWLEDGE_S)
            assert s.said(t.ACKS) == [{"ids": ["question-a1"], "refused": []}] * 2
            token = s.standing(t.APPROVAL_TOKEN, id="a1", user="operator")["token"]
            for _ in range(2):
                await s.decide(token=token)
            assert [reply["ok"] for reply in s.said(t.REPLIES, id="c1")] == [True, True]
            await s.decide("deny", token=token, id="c2")
            (late,) = s.said(t.REPLIES, id="c2")
            assert late["error"]["code"] == "already_decided"
            assert late["error"]["details"] == s.said(t.APPROVAL_OUTCOME, id="a1")[0]
            assert [row.action for row in shell.store.audit_rows()] == [
                "request",
                "decision",
                "outcome",
                "decision",
            ]

    run(test)


BAD = [
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b'"approve"',
    b"null",
    b'{"decision":"approve"}',
    b'{"decision":"maybe","token":"x"}',
    b'{"decision":"approve","token":7}',
    b'{"decision":"approve","token":"x","updated_input":{"n":1e400}}',
    b'{"decision":"approve","token":"x","answers":{"a":1}}',
    b"{" * 10_000,
    b"x" * 5_000_000,
]


@pytest.mark.parametrize("payload", BAD, ids=range(len(BAD)))
def test_bad_payloads_change_nothing_and_stop_nobody(run: Run, payload: bytes) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            for topic in (
                "approvals/a1/decision",
                "approvals/a1/show",
                "approvals/none/decision",
                "facts/ingest/approvals",
            ):
                await s.send(topic, payload)
            assert s.answers() == []
            await s.decide()
            assert s.answers()[0].decision == "approved"

    run(test)


def test_a_retained_decision_is_ignored(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask(kind="plan", tool="ExitPlanMode")
            token = s.standing(t.APPROVAL_TOKEN, id="a1", user="operator")["token"]
        await s.send(
            "approvals/a1/decision", {"id": "c1", "decision": "approve", "token": token}, retain=True
        )
        async with s.running():
            assert s.answers() == []
            assert s.said(t.REPLIES) == []
            await s.send("approvals/a1/decision", b"", retain=True)  # and so is the one that clears it
            assert s.answers() == []

    run(test)


def test_show_gives_the_whole_and_refusals_are_replied(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask(tool="Write", input_json='{"content":"%s"}' % ("x" * 100_000))
            await s.send("approvals/a1/show", {"id": "s1"})
            (reply,) = s.said(t.REPLIES, id="s1")
            assert reply["result"]["input"] == {"content": "x" * 100_000}
            assert not reply["result"]["input_partial"]
            await s.send("approvals/a9/show", {"id": "s2"})
            assert s.said(t.REPLIES, id="s2")[0]["error"]["code"] == "unknown_approval"
            await s.send("approvals/a1/decision", {"decision": "approve", "token": "x"})
            (report,) = s.said(t.ERRORS)
            assert (report["code"], report["topic"]) == ("bad_token", "approvals/a1/decision")
            assert s.figure("pointsman_decisions_refused_total", code="bad_token") == 1

    run(test)


def test_facts_that_do_not_fit_are_refused_by_id(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.tell("question", question("a/../b"), "q1")
            await s.tell("withdrawn", m.QuestionWithdrawn(approval="a7", reason="gone"), "w7")
            await trio.sleep(2 * ACKNOWLEDGE_S)
            refused = [entry for ack in s.said(t.ACKS) for entry in ack["refused"]]
            assert [(r["id"], r["code"]) for r in refused] == [
                ("q1", "bad_request"),
                ("w7", "unknown_approval"),
            ]
            await s.ask()
            assert s.standing(t.APPROVALS_PENDING)["count"] == 1

    run(test)


def test_the_largest_inputs_pass(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            text = '{"content":"%s"}' % ("\\n" * 1_000_000)  # each escape doubles within the fact
            await s.ask(input_json=text)
            await s.send("approvals/a1/show", {"id": "s1"})
            assert s.said(t.REPLIES, id="s1")[0]["ok"]
            await s.decide(updated_input={"content": "\n" * 1_999_000})
            assert s.said(t.REPLIES, id="c1")[0]["error"]["code"] == "too_large"
            await s.decide(id="c2", reason="r" * 1_000_000)
            assert s.answers()[0].input_json == text

    run(test)


def test_the_key_is_made_private_and_never_logged(run: Run, tmp_path: Path) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            await s.decide(token="wrong")
        key = tmp_path / "home/secrets" / KEY
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "home/approvals.sqlite").stat().st_mode) == 0o600
        assert key.read_text() not in str(s.lines)
        assert key.read_bytes() not in (tmp_path / "home/approvals.sqlite").read_bytes()
        key.write_text("short")
        with pytest.raises(HomeError, match="remove it and start again"):
            async with s.running():
                pass
        key.unlink()
        async with s.running():
            assert s.standing(t.APPROVALS_PENDING)["count"] == 1
            await s.decide(id="c3")
            assert s.answers()[0].decision == "approved"

    run(test)


def test_auto_approval_needs_nobody(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask(tool="Read", input_json='{"file_path":"/work/app/a.py"}')
            assert s.answers()[0].decision == "approved"
            assert s.standing(t.APPROVAL_REQUEST, id="a1") is None
            assert s.said(t.APPROVAL_TOKEN) == []
            assert s.figure("pointsman_approvals_total", decision="approved", via="policy", level="low") == 1

    run(test)


def test_every_payload_fits_its_row(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            await s.decide()
            for message in s.broker.log:
                found = t.find(message.topic.removeprefix("pointsman/node/"))
                assert found is not None
                if message.payload and found[0].payload is not None:
                    codec.decode(found[0], message.payload, found[0].payload)

    run(test)
