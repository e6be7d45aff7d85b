"""The input as a person reads it, and the agent's text untouched."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import topics as t
from services.approvals import reading
from tests.services.approvals.support import World, published

WEIRD = [
    '{"command":"ls","command":"rm -rf /"}',
    '{"n":123456789012345678901234567890}',
    '{"n":1e400,"m":-1E-400,"z":-0.0,"o":1.0}',
    '{"text":"\\u00e9\\/\\ud83d\\ude00","caf\\u00e9":"é"}',
    '{"half":"\\ud800"}',
    '  { "a" : [ 1 , 2 ] }  ',
    '{"zero":"\\u0000","tab":"\\t"}',
    '{"a":NaN}',
    '{"deep":' + "[" * 500 + "]" * 500 + "}",
    "[" * 100_000,
    '{"n":' + "9" * 5000 + "}",
    "[1]",
    "null",
    "",
    "{}",
    '{"⟦masked⟧":"⟦number 1⟧"}',
    "\ufeff{}",
]


@pytest.mark.parametrize("text", WEIRD, ids=range(len(WEIRD)))
def test_any_text_is_asked_shown_and_sent_back_byte_for_byte(text: str) -> None:
    world = World()
    (request,) = published(world.ask(input_json=text, tool="Unheard"), t.APPROVAL_REQUEST)
    assert msgspec.json.decode(msgspec.json.encode(request))["id"] == "a1"  # every reader can take it
    shown = msgspec.json.decode(msgspec.json.encode(world.show()))
    if not shown["input_partial"]:
        assert shown["input"] == json.loads(text)
    world.restart()
    world.decide()
    assert world.answers()[0].input_json == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def test_a_plan_is_its_text() -> None:
    """Claude Code sends none where the model has written none."""
    for text, said in (('{"plan":"1. this\\n2. that"}', "1. this 2. that"), ("{}", "a plan without a text")):
        assert reading.summary("plan", "ExitPlanMode", reading.parse(text)) == said


@given(JSON)
def test_any_json_is_shown_and_a_view_that_is_not_partial_is_the_input(value: Any) -> None:
    text = json.dumps({"value": value})
    parsed = reading.parse(text)
    view = reading.view(text, parsed)
    shown = msgspec.json.decode(msgspec.json.encode(view.value))
    if not view.partial:
        assert shown == json.loads(text)
    assert reading.summary("tool", "X", parsed)
    assert len(reading.summary("tool", "X", parsed)) <= reading.SUMMARY_CHARS


@given(
    st.text(st.characters(codec=None))
    | st.from_regex(r'[{}\[\]",:0-9eE+.\-nulltrefas ]{0,40}', fullmatch=True)
)
def test_any_text_at_all_is_read_without_an_exception(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()  # a fact's text is UTF-8
    parsed = reading.parse(text)
    msgspec.json.encode(reading.view(text, parsed).value)
    msgspec.json.encode(reading.whole(text, parsed).value)


SECRETS = [
    ("export KEY=sk-ant-api03-abcdefghijklmnop", "sk-ant-api03"),
    ("git clone https://ada:hunter22@example.org/x", "hunter22"),
    ("curl -H 'Authorization: Bearer abcdefgh12345678' u", "abcdefgh12345678"),
    ("curl -H 'Authorization: abcdefgh12345678' u", "abcdefgh12345678"),
    ("PGPASSWORD=hunter2222 psql", "hunter2222"),
    ("mysql --password hunter2222", "hunter2222"),
    ('{"api_key": "abcdef123456"}', "abcdef123456"),
    ("password = hunter2222", "hunter2222"),
    ("token: ghp_abcdefghijklmnopqrst", "ghp_abcdefghijkl"),
    ("AKIAABCDEFGHIJKLMNOP", "AKIAABCD"),
    ("-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEpAIBAAKCAQEA" * 4 + "\n-----END", "MIIEpAIBAAKC"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefghijklm", "eyJzdWIi"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_masked_and_show_gives_them(text: str, secret: str) -> None:
    world = World()
    effects = world.ask(
        input_json=json.dumps({"command": text}), description=text, suggestions=[{"rule": text}]
    )
    said = msgspec.json.encode(published(effects, t.APPROVAL_REQUEST)).decode()
    said += msgspec.json.encode(published(effects, t.APPROVALS_PENDING)).decode()
    assert secret not in said
    assert "⟦masked⟧" in said
    assert published(effects, t.APPROVAL_REQUEST)[0].input_partial
    assert secret in msgspec.json.encode(world.show().input).decode()
    assert not world.show().input_partial


@pytest.mark.parametrize("name", ["password", "api_key", "GITHUB_TOKEN", "authorization"])
def test_a_field_that_is_named_like_a_secret_is_masked(name: str) -> None:
    text = json.dumps({name: "abcd1234"})
    assert reading.view(text, reading.parse(text)) == reading.View({name: "⟦masked⟧"}, True)


@pytest.mark.parametrize(
    "command",
    [
        "TOKEN= /sbin/reboot now",
        "cat token\n/sbin/shutdown_everything",
        "PASSWORD=$(rm -rf /work)",
        "TOKEN=abcdefgh;/sbin/shutdown_now",
        "TOKEN=abcdefgh|/sbin/shutdown_now",
        "TOKEN=`/sbin/shutdown_now`",
        "sudo -u token /sbin/shutdown_now",
        "sudo -u bearer /sbin/shutdown_now",
        "https://a:$(/sbin/shutdown_now)@host",
        "PASSWORD='x' /sbin/shutdown_now",
    ],
)
def test_a_mask_never_hides_a_second_command(command: str) -> None:
    text = json.dumps({"command": command})
    shown = reading.view(text, reading.parse(text)).value["command"]
    assert any(word in shown for word in ("reboot", "shutdown_everything", "rm -rf", "shutdown_now"))


@pytest.mark.parametrize(
    "where", [{"content": "ab" * 50_000}, {"x": {"y": ["z" * 10_000] * 10}}, {"n": list(range(50_000))}]
)
def test_long_values_are_cut_at_both_ends_kept(where: dict[str, Any]) -> None:
    text = json.dumps({"file_path": "/a", **where})
    view = reading.view(text, reading.parse(text))
    assert view.partial
    (name,) = where
    assert "⟦cut: " in view.value[name]
    assert len(view.value[name].encode()) <= reading.CUT_BYTES
    assert view.value["file_path"] == "/a"
    assert reading.carries_marks(view.value)


def test_many_middling_values_are_cut_together() -> None:
    text = json.dumps({str(n): "x" * 60_000 for n in range(60)})
    view = reading.view(text, reading.parse(text))
    assert view.partial
    assert len(msgspec.json.encode(view.value)) <= reading.TOTAL_BYTES


@pytest.mark.parametrize("text", ["{}", " { } ", '{"a":1}', '{"answers":{"Q":"old"}, "a" : 1e400 } '])
def test_answers_are_added_to_the_text(text: str) -> None:
    made = reading.with_answers(text, {"Q": "A"})
    assert json.loads(made) == {**json.loads(text), "answers": {"Q": "A"}}
    assert made.startswith(text.rstrip()[:-1].rstrip())


def test_reading_costs_little() -> None:
    """A safeguard against patterns that explode, not a benchmark."""
    hard = [
        "a" * 65_000,
        "-" * 65_000,
        "token" * 13_000,
        "://" * 20_000,
        "PRIVATE KEY-----" * 4_000,
        "eyJ" * 20_000,
    ]
    for text in hard:
        encoded = json.dumps({"command": text})
        reading.view(encoded, reading.parse(encoded))
