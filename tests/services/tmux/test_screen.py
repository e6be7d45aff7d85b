"""What is read off recorded screens, and that no text can become a key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tmux import screen

RECORDINGS = Path(__file__).parents[2] / "recordings"
RULE = "─" * 100


def recorded(name: str) -> dict[str, str]:
    """Label → screen."""
    lines = [json.loads(line) for line in (RECORDINGS / name).read_text().splitlines()]
    return {line["msg"]["label"]: line["msg"]["text"] for line in lines if line["dir"] == "screen"}


BASIC = recorded("screen-2.1.329-basic.ndjson")
TRUST = f"""{RULE}
 Accessing workspace:

 /home/user/work

 Quick safety check: Is this a project you created or one you trust?

 ❯ No, exit
   Yes, I trust this folder

 Enter to confirm · Esc to cancel
"""
NUMBERED = (
    f"{RULE}\n Do you trust this?\n\n ❯ 1. Yes, I trust this folder\n   2. No, exit\n\n Enter to confirm\n"
)
PERMISSION = f"""❯ BASH touch a1 ;; SAY one

  Running a scripted command
  ⎿  $ touch a1
{RULE}
 Bash command

 touch a1
 Do you want to proceed?
 ❯ 1. Yes
   2. Yes, and always allow access to work/ from this project
   3. No

 Esc to cancel · Tab to amend
"""


def test_a_screen_that_takes_text() -> None:
    for label in ("started", "after SAY", "allowed with Enter"):
        assert screen.takes_text(BASIC[label]), label
    assert screen.draft(f"{RULE}\n❯ half a\n  sentence\n{RULE}\n  ? for shortcuts") == "half a sentence"
    assert screen.draft(f'{RULE}\n❯ Try "fix the tests"\n{RULE}') == ""
    assert not screen.takes_text(f"{RULE}\n❯ half\n{RULE}")


def test_what_was_said_before_is_no_dialog() -> None:
    """A prompt of several lines in the conversation looks like a list with a marked option."""
    text = f"❯ first\n  second\n\n● done\n\n{RULE}\n❯\n{RULE}\n  ? for shortcuts"
    assert screen.dialog(text) is None
    assert screen.takes_text(text)
    assert screen.dialog(f"{RULE}\n❯ first\n  second\n{RULE}") is None, "half-written"


@pytest.mark.parametrize(
    "text", [TRUST, NUMBERED, PERMISSION, "", "Resume this session with:\nclaude --resume x"]
)
def test_screens_that_take_no_text(text: str) -> None:
    assert not screen.takes_text(text)


def test_the_trust_dialog_is_answered_one_key_at_a_time() -> None:
    found = screen.dialog(TRUST)
    assert found == screen.Dialog(("No, exit", "Yes, I trust this folder"), 0)
    assert screen.trust_key(found) == "Down"
    moved = screen.dialog(TRUST.replace("❯ No", "  No").replace("  Yes", "❯ Yes"))
    assert moved is not None
    assert screen.trust_key(moved) == "Enter"
    older = screen.dialog(NUMBERED)
    assert older is not None
    assert screen.trust_key(older) == "Enter"
    assert "--trust" in screen.waits_at(found, "demo", "/home/user/work")


def test_no_other_dialog_is_answered() -> None:
    found = screen.dialog(PERMISSION)
    assert found is not None
    assert (found.options[0], found.options[-1], found.chosen) == ("Yes", "No", 0)
    assert screen.trust_key(found) is None
    assert "attach demo" in screen.waits_at(found, "demo", "/")


@given(st.text())
def test_a_pasted_text_holds_no_key(text: str) -> None:
    typed = screen.typeable(text)
    assert not {c for c in typed if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160}
    assert typed[:1] not in ("!", "#", "&"), "the input line would take it for a command"
    assert [c for c in typed if c.isalnum()] == [c for c in text if c.isalnum()]


@given(st.text(alphabet=" ❯─\n1.Yestrualwyd,I|") | st.text())
def test_any_screen_is_read(text: str) -> None:
    found = screen.dialog(text)
    assert screen.takes_text(text) == (found is None and screen.draft(text) == "")
    if found is not None:
        assert 0 <= found.chosen < len(found.options)
        assert screen.trust_key(found) in (None, "Enter", "Down", "Up")
