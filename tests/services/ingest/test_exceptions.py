"""Each exception to "exactly once" is counted where it happens, and told of in the docs."""

from __future__ import annotations

from pathlib import Path

from bus import messages as m
from services.ingest.exceptions import KINDS, Excepted
from services.ingest.hook_model import TypeIn
from tests.services.ingest.hook_support import HookPlay
from tests.services.ingest.support import INIT, UID, can_use, created
from tests.services.ingest.test_callbacks import answer, before

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reliability.md"


def counted(play: HookPlay) -> list[str]:
    return [d.kind for d in play.done if isinstance(d, Excepted)]


def test_what_an_agent_of_ours_does_not_take(tmp_path: Path) -> None:
    play = HookPlay(tmp_path / "ingest.sqlite")
    play.open(prompt="one")
    play.initialize()
    play.say(INIT, can_use("q1"))
    answer(play, "approved", "q1", input_json="{}")
    assert counted(play) == []
    play.act(play.core.disconnected(play.number, play.now))
    assert counted(play) == [], "a bridge comes back"
    play.fact(m.AgentExited(process=1, exit_code=-9, reason="killed", final=False))
    play.later(11)
    assert counted(play) == ["answer_unread"]
    play.fact(m.AgentStarted(process=2, resume="conv-1"))
    play.journal = b""
    play.connect(process=2)
    play.initialize()
    play.taken()
    for _ in range(3):  # it is watched for a while, and dropped when nothing came of it
        play.later(31)
    assert counted(play) == ["answer_unread", "prompt_dropped"]
    assert play.state().queued_prompts == 0


def test_a_callback_that_is_lost_with_its_connection(tmp_path: Path) -> None:
    play = HookPlay(tmp_path / "ingest.sqlite")
    play.fact(created(kind="sdk-url", agent_version="2.1.119"))
    play.fact(m.AgentStarted(process=1, resume=None))
    play.attach()
    play.initialize()
    play.gate = None
    play.say(INIT, before())
    play.detach()
    assert counted(play) == ["callback_lost"]


def test_what_a_screen_does_not_wait_for(tmp_path: Path) -> None:
    play = HookPlay(tmp_path / "ingest.sqlite")
    play.interactive()
    play.post("SessionStart", source="startup")
    play.act(play.core.prompt(m.Prompt(id="p", text="go"), "one", play.now))
    play.crash()
    play.act(play.core.begin_hooks(play.now))
    asked = [d for d in play.done if isinstance(d, TypeIn)][-1]
    assert counted(play) == []
    play.act(play.core.typed(UID, asked.id, "", play.now))
    assert counted(play) == ["prompt_retyped"]
    play.gate = None
    play.hang_up(play.post("PreToolUse", tool_name="Bash", tool_input={}, tool_use_id="toolu_1"))
    assert counted(play) == ["prompt_retyped", "call_unjudged"]


def test_the_docs_tell_of_each() -> None:
    text = DOCS.read_text("utf-8")
    assert [kind for kind in KINDS if f"`{kind}`" not in text] == []
