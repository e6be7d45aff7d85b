"""The real CLI, and a scripted API that bills by itself: the ledger counts what is billed, to the digit."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus import messages as m
from bus.effects import Publish
from tests.services.ledger.real import RealSession
from tests.support.messages_api import MessagesApi

pytestmark = pytest.mark.real
SUBAGENT = 'TOOL Task {"description":"d","prompt":"SAY sub","subagent_type":"general-purpose"} ;; SAY over'


def test_one_long_life(tmp_path: Path) -> None:
    """Tools, two models, a subagent, /clear, kill -9 in mid turn, resume, a clean end, a fork."""
    with MessagesApi() as api, RealSession("2.1.329", tmp_path, api) as session:

        def agree() -> bool:
            session.settle()
            cost = session.cost
            seen = round((cost.witnesses.transcript_usd or 0) * 10**12) + session.beyond
            assert (cost.drift_usd, cost.drift_cause) == (0, None)
            return session.spent == seen == api.total_picodollars()

        session.start()
        session.turn("SAY one")
        session.turn("READ note ;; THINK hm ;; SAY two")
        play = session.play
        play.act(play.core.change(m.SetSession(model="claude-haiku-4-5"), "one", play.now))
        session.turn("SAY with another model")
        session.turn(SUBAGENT)
        session.until(lambda: session.said("background_tasks_changed", tasks=[]))
        session.until(agree)  # once it has made its own turn, if it was not over within this one
        assert session.cost.witnesses.priced_usd == session.cost.spent_usd
        assert set(session.cost.by_model) == {"claude-opus-5-5", "claude-haiku-4-5"}

        session.turn("/clear")
        session.turn("SAY anew")
        session.settle()  # killed at once, it would not have written even what it has reported
        before = session.spent
        session.prompt("BASH touch x ;; SAY never")
        session.until(lambda: play.record.questions)  # the model's call is over, its turn is not
        session.gone(kill=True)
        assert session.spent == before
        session.until(agree)  # booked from the transcript
        lost = session.spent - before
        assert lost > 0
        assert session.cost.estimated_usd == lost / 10**12

        session.start(resume=play.record.conversation)  # 2.1.329 begins at the last clean exit's total
        session.turn("SAY back")
        session.gone()
        session.start(resume=play.record.conversation)  # … and here at this one's
        session.turn("SAY again")
        session.until(agree)
        session.gone()
        session.start("--fork-session", resume=play.record.conversation)
        session.turn("SAY fork")
        session.until(agree)
        assert session.cost.estimated_usd == lost / 10**12

        session.world.restart()
        assert session.spent == api.total_picodollars()
        assert session.cost.estimated_usd == lost / 10**12


@pytest.mark.parametrize(("version", "why"), [("2.1.119", "1-hour cache writes"), ("2.1.42", "own prices")])
def test_older_versions(tmp_path: Path, version: str, why: str) -> None:
    """They start at zero when resumed, and their own prices are not the API's: a drift, and its cause."""
    with MessagesApi() as api, RealSession(version, tmp_path, api) as session:
        session.start()
        session.turn("SAY one")
        session.turn("READ note ;; SAY two")
        session.settle()  # killed at once, it would not have written even what it has reported
        session.prompt("BASH touch x ;; SAY never")
        session.until(lambda: session.play.record.questions)
        session.gone(kill=True)
        session.start(resume=session.play.record.conversation)
        session.turn("SAY back")
        session.until(lambda: not session.play.session.prompts)  # also what the killed one had not done
        session.settle()
        cost, billed = session.cost, api.total_picodollars()
        assert round((cost.witnesses.priced_usd or 0) * 10**12) == billed  # the tokens are right
        if version == "2.1.119":  # 2.1.42 writes into its transcripts what an answer's beginning says
            assert round((cost.witnesses.transcript_usd or 0) * 10**12) + session.beyond == billed
        assert cost.estimated_usd > 0
        assert cost.drift_cause is not None
        assert why in cost.drift_cause
        said = [effect.payload for effect in session.world.said if isinstance(effect, Publish)]
        events = [one for one in said if isinstance(one, m.LedgerEvent)]
        assert {one.action for one in events} == {"drift"}
