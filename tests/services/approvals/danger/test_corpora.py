"""Real commands, dangerous ones in every disguise and those of an ordinary day, against the real parser.

dangerous.txt and everyday.txt say themselves how their lines are read.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bus.messages import level_rank
from services.approvals.calls import Call
from services.approvals.rules import Rules
from tests.services.approvals.danger.support import assessed, level

RULES = Rules(auto_approve=frozenset({"Bash"}), timeout_for=lambda kind, level: 60.0)
HERE = Path(__file__).parent


def lines(name: str) -> list[str]:
    text = (HERE / name).read_text("utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def command(text: str) -> str:
    return str(json.loads(text)) if text.startswith('"') and text.endswith('"') and "\\" in text else text


DANGEROUS = [
    (command(rest), least) for least, _, rest in (line.partition(" ") for line in lines("dangerous.txt"))
]
EVERYDAY = [(command(line.removeprefix("~")), line.startswith("~")) for line in lines("everyday.txt")]


@pytest.mark.parametrize(("text", "least"), DANGEROUS)
def test_a_dangerous_command_is_never_low(text: str, least: str) -> None:
    found = assessed(text)
    assert level_rank(found.level) >= level_rank(least), found
    assert found.reason
    assert found.impact
    call = Call("tool", "Bash", "s", "u", "/work/app", found, {"command": text}, auto_approve=("Bash",))
    assert RULES.judge(call).answer == "ask"


@pytest.mark.parametrize(("text", "asks"), EVERYDAY)
def test_an_everyday_command_is_low(text: str, asks: bool) -> None:
    found = assessed(text)
    assert (found.level != "low") is asks, found
    assert found.level in ("low", "medium"), found


def test_the_corpora_are_what_the_docs_say() -> None:
    assert len({text for text, _ in DANGEROUS}) >= 2000
    assert {least for _, least in DANGEROUS} == {"medium", "high", "critical"}
    assert len({text for text, _ in EVERYDAY}) >= 650
    assert sum(asks for _, asks in EVERYDAY) * 20 <= len(EVERYDAY)


def test_a_message_is_no_command() -> None:
    assert level('git commit -m "fix: rm -rf / race"') == "low"
