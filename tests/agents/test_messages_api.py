"""The scripted Messages API, and its bill against what the real Claude Code CLI says that it has spent."""

from __future__ import annotations

import importlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from services.demo.scripted import script
from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import STDIO_ARGS, StdioAgent, clean_env, is_type

MICRO = 10**6  # 10^-12 dollars in a micro-dollar


def call(url: str, body: dict[str, Any] | None = None, method: str = "POST") -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_bill_equals_the_total_of_the_real_cli(tmp_path: Path) -> None:
    """Over text, tools, a change of model and a resume, our bill and the CLI's total are the same to the
    micro-dollar.
    """
    home, cwd = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    cwd.mkdir()
    (cwd / "f.txt").write_text("content\n")
    api = MessagesApi()
    with api:
        env = clean_env(home, api.url)
        with StdioAgent([claude_path()], env=env, cwd=cwd) as agent:
            agent.turn("SAY one ;; SAY two")
            mark = agent.prompt(f"READ {cwd}/f.txt & READ {cwd}/f.txt ;; BASH touch x ;; SAY done")
            agent.allow(agent.question(since=mark))
            agent.wait(is_type("result"), since=mark)
            assert agent.ask("set_model", model="claude-haiku-4-5-20251001")["subtype"] == "success"
            result = agent.turn("THINK hm ;; SAY in another model")
            assert len({bill["model"] for bill in api.bills}) == 2
            assert round(result["total_cost_usd"] * 1e6) == round(api.total_picodollars() / MICRO)
            agent.close_stdin()
            assert agent.wait_exit() == 0
        with StdioAgent(
            [claude_path()], env=env, cwd=cwd, args=(*STDIO_ARGS, "--resume", result["session_id"])
        ) as agent:
            after = agent.turn("SAY resumed")
            assert after["total_cost_usd"] > result["total_cost_usd"]
            assert round(after["total_cost_usd"] * 1e6) == round(api.total_picodollars() / MICRO)
    assert any(bill["probe"] for bill in api.bills), "the CLI tries a model with `Hi` before it takes it"
    split = [bill["usage"]["cache_creation"] for bill in api.bills]
    assert all(part["ephemeral_5m_input_tokens"] and part["ephemeral_1h_input_tokens"] for part in split)
    assert any(bill["usage"]["cache_read_input_tokens"] for bill in api.bills)


def test_a_cost_worked_out_by_hand() -> None:
    """10 in, 20 out, 30 read, 40 written for 5 min, 50 for 1 h with Opus 5.5: 40 + 400 + 6 + 200 + 400
    micro-dollars.
    """
    usage = {
        "input_tokens": 10,
        "output_tokens": 20,
        "cache_read_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 50},
    }
    assert script.cost(usage, script.PRICES["claude-opus-5-5"]) == 1046 * MICRO


@pytest.mark.parametrize("model", script.PRICES)
def test_prices_are_those_of_genai_prices(model: str) -> None:
    """Our price table is the independent one's, for each kind of token."""
    genai_prices = importlib.import_module("genai_prices")  # a development dependency
    usage = genai_prices.Usage(
        input_tokens=10 + 30 + 90,
        output_tokens=20,
        cache_read_tokens=30,
        cache_write_tokens=40 + 50,
        cache_write_1h_tokens=50,
    )
    theirs = genai_prices.calc_price(usage, model, provider_id="anthropic").total_price
    split = {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 50}
    ours = {"input_tokens": 10, "output_tokens": 20, "cache_read_input_tokens": 30, "cache_creation": split}
    assert int(theirs * 10**12) == script.cost(ours, script.PRICES[model])


def test_http(tmp_path: Path) -> None:
    """Health, token counts, whole answers, errors by script, unknown models and paths; each bill is in the
    file.
    """
    bills = tmp_path / "bills.jsonl"
    with MessagesApi(bills_file=bills) as api:
        messages = f"{api.url}/v1/messages?beta=true"
        assert call(api.url, method="GET")[0] == 200
        assert call(api.url, method="HEAD") == (200, b"")
        assert (
            json.loads(call(f"{api.url}/v1/messages/count_tokens", {"messages": [user("x")]})[1])[
                "input_tokens"
            ]
            > 0
        )
        body = {"model": "claude-opus-5-5", "max_tokens": 100, "messages": [user("SAY hi")]}
        answer = json.loads(call(messages, body)[1])
        assert answer["content"] == [{"type": "text", "text": "hi"}]
        status, stream = call(messages, {**body, "stream": True, "messages": [user("STREAM 3 1 ;; BASH ls")]})
        assert status == 200
        events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: ")]
        assert events[-2]["delta"]["stop_reason"] == "tool_use"
        assert call(messages, {**body, "max_tokens": 1})[0] == 200
        assert call(messages, {**body, "messages": [user("ERROR 529")]})[0] == 529
        assert call(messages, {**body, "model": "no-such-model"})[0] == 404
        assert call(f"{api.url}/v1/other", {})[0] == 404
        assert [bill["probe"] for bill in api.bills] == [False, False, True]
        assert [json.loads(line) for line in bills.read_text().splitlines()] == api.bills
        assert api.total_picodollars() == sum(bill["cost_picodollars"] for bill in api.bills[:2])
        assert api.total_picodollars(probes=True) > api.total_picodollars()
        assert len(api.requests) == 5


RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]}
ANSWER = {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]}
MID_TURN = {
    "role": "system",
    "content": script.MID_TURN + "SAY joined\n\nThis is how Claude Code surfaces messages",
}
OLD_RESULT = {
    "role": "user",
    "content": [
        {
            "type": "tool_result",
            "tool_use_id": "t",
            "content": "42\n\n<system-reminder>\n"
            f"{script.MID_TURN}SAY joined\n\nIMPORTANT: you MUST\n</system-reminder>",
        }
    ],
}
"""How 2.1.119 and 2.1.42 hand on a message that came during a tool."""


@pytest.mark.parametrize(
    ("messages", "actions"),
    [
        ([user("SAY a ;; SAY b")], [("text", "a"), ("text", "b")]),
        ([user("SAY a\nSAY b")], [("text", "a"), ("text", "b")]),
        ([user("just talk")], [("text", script.HELP)]),
        ([user("SAYING is not a keyword")], [("text", script.HELP)]),
        ([user("<system-reminder>SAY no</system-reminder>SAY yes")], [("text", "yes")]),
        ([user("BASH x ;; SAY b"), ANSWER, RESULT], [("text", "b")]),
        ([user("BASH x"), ANSWER, RESULT], [("text", "RESULT: 42")]),
        ([user("BASH x ;; SAY b"), ANSWER, RESULT, MID_TURN], [("text", "b"), ("text", "joined")]),
        ([user("BASH x"), ANSWER, RESULT, MID_TURN], [("text", "joined")]),
        ([user("BASH x ;; SAY b"), ANSWER, OLD_RESULT], [("text", "b"), ("text", "joined")]),
        ([user("BASH x & BASH y ;; SAY b"), ANSWER, RESULT, RESULT], [("text", "b")]),
        ([user("BASH x"), user("[Request interrupted by user]"), user("SAY b")], [("text", "b")]),
        ([user("ERROR 529"), user("SAY b")], [("text", "b")]),
        ([user("SAY a"), user("talk"), user("RECALL")], [("text", "SAY a | talk")]),
        ([user("STREAM many")], [("text", "I cannot read the step `STREAM many`.")]),
        ([user('WRITE "a b" c d')], [("tool", ("Write", {"file_path": "a b", "content": "c d"}))]),
        ([user('TOOL Glob {"pattern": "*"}')], [("tool", ("Glob", {"pattern": "*"}))]),
    ],
)
def test_script(messages: list[dict[str, Any]], actions: list[Any]) -> None:
    """The answer follows from the conversation alone."""
    assert script.reply(messages) == actions
