"""The same transcripts, counted by ccusage: the same sums; docs/costs.md explains each difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.ledger.model import Use
from tests.services.ledger import corpus
from tests.services.ledger.support import World
from tests.services.ledger.test_import import import_
from tests.support import ccusage

pytestmark = pytest.mark.real
EXTRA = "0000000a-0000-4000-8000-000000000000"


def by_day(world: World) -> dict[str, dict[str, int]]:
    """10⁻¹² dollars by day (UTC) and model."""
    found: dict[str, dict[str, int]] = {}
    for day, model, cost in world.db.execute(
        "SELECT at / 86400000, model, sum(cost) FROM postings GROUP BY 1, 2"
    ):
        found.setdefault(f"2026-11-{day - 20757:02}", {})[model] = int(cost)  # 20,757: 31 October
    return found


def theirs(folder: Path) -> dict[str, dict[str, int]]:
    return {
        day: {model: round(usd * 10**12) for model, usd in rows.items()}
        for day, rows in ccusage.daily(folder).items()
    }


def test_it_agrees_to_the_last_digit(tmp_path: Path) -> None:
    corpus.write(tmp_path / "projects")
    world = World()
    import_(world, tmp_path / "projects")
    assert by_day(world) == theirs(tmp_path)


@pytest.mark.parametrize(
    ("model", "tokens", "change", "ours", "theirs_is"),
    [
        # It has no price for this model yet, and shows nothing.
        ("claude-opus-5-5", (1, 1000), {}, 20_004_000_000, 0),
        # It passes over JSON with spaces.
        (corpus.SONNET, (1, 1000), {"spaces": True}, 15_003_000_000, 0),
        # A call with more than 200,000 tokens costs more from its first token on; it takes the part above.
        (corpus.SONNET, (250_000, 1000), {}, 1_522_500_000_000, 915_000_000_000),
        # Searches of the web cost a cent each; it leaves them out.
        (corpus.SONNET, (1, 1000), {"searches": 2}, 35_003_000_000, 15_003_000_000),
        # What an old Claude Code wrote as the cost of a line was its own guess; it takes that.
        (corpus.SONNET, (1, 1000), {"costUSD": 0.5}, 15_003_000_000, 500_000_000_000),
        # … and so do we where there is no price.
        ("claude-nobody", (1, 1000), {"costUSD": 0.5}, 500_000_000_000, 500_000_000_000),
    ],
)
def test_each_difference(
    tmp_path: Path,
    model: str,
    tokens: tuple[int, int],
    change: dict[str, float],
    ours: int,
    theirs_is: int,
) -> None:
    line = json.loads(corpus.line_of(model, Use(0, *tokens), EXTRA))
    if "searches" in change:
        line["message"]["usage"]["server_tool_use"] = {"web_search_requests": change["searches"]}
    if "costUSD" in change:
        line["costUSD"] = change["costUSD"]
    path = tmp_path / "projects" / "-w" / f"{EXTRA}.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(line, separators=None if "spaces" in change else (",", ":")) + "\n")
    world = World()
    import_(world, path)
    assert world.ledger.node.all.use.cost == ours
    assert sum(cost for rows in theirs(tmp_path).values() for cost in rows.values()) == theirs_is
