"""Past transcripts: each call once, whatever files tell of it, in whatever order, however often."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bus import messages as m
from services.ledger import importer, say
from services.ledger.database import Database
from services.ledger.importing import Run
from tests.services.ledger import corpus
from tests.services.ledger.support import START, World, fact_of


def import_(
    world: World, *paths: Path, name: str = "i1", stop: Callable[[int], bool] = lambda _n: False
) -> m.ImportResult | None:
    """As `importer.Importer` does it; None when it was killed (``stop`` says after which batch)."""
    if not world.ledger.imports.runs:
        command = m.LedgerImport(id=name, paths=[str(path) for path in paths])
        world.act(world.ledger.imports.begin(command, world.now))
    run = world.ledger.imports.runs[0]
    batches = 0
    for file, start in importer.left(run, list(importer.sizes_of(run.paths))):
        end = False
        while not end:
            batch = importer.read_batch(file, start)
            run, effects = world.ledger.imported(run, batch, world.now)
            world.act(effects)
            start, end = batch.read_to, batch.end
            batches += 1
            if stop(batches):
                world.restart()
                return None
    world.act(world.ledger.imports.finish(run, world.now))
    return run.result()


def spent(world: World) -> int:
    return world.ledger.node.all.use.cost


def rows(world: World, by: str) -> dict[str, float]:
    found = say.answer(
        by, world.store.queries.ask(by, None, None, ZoneInfo("Europe/Berlin")), ZoneInfo("Europe/Berlin")
    )
    return {row.key: row.spent_usd for row in found.rows}


@pytest.fixture
def projects(tmp_path: Path) -> Path:
    return tmp_path / "projects"


def test_the_corpus_costs_what_it_costs_by_hand(database: Database, projects: Path) -> None:
    lines = corpus.write(projects)
    world = World(database=database)
    result = import_(world, projects)
    assert result == m.ImportResult(
        files=4, lines=lines, added=len(corpus.CALLS), duplicates=11, broken=corpus.BROKEN
    )
    hand = corpus.by_hand()
    assert spent(world) == sum(hand.values()) == round(corpus.TOTAL_USD * 10**12)
    assert world.total().spent_usd == corpus.TOTAL_USD
    assert world.total().estimated_usd == 0
    by_model = {corpus.OPUS: "a1 a2 a3", corpus.HAIKU: "s1 s2 b3", corpus.SONNET: "b1 b2"}
    assert rows(world, "model") == {
        model: sum(hand[name] for name in names.split()) / 10**12 for model, names in by_model.items()
    }
    assert rows(world, "project") == {
        "/work/app": sum(hand[name] for name in ("a1", "a2", "a3", "s1", "s2")) / 10**12,
        "/work/tool": sum(hand[name] for name in ("b1", "b2", "b3")) / 10**12,
    }
    assert rows(world, "day")["2026-11-04"] == (hand["b1"] + hand["b2"]) / 10**12
    assert len(rows(world, "session")) == 3
    world.restart()
    assert spent(world) == sum(hand.values())
    assert world.store.derived_agrees()
    assert world.ledger.imports.runs == []


def test_a_second_import_adds_nothing(database: Database, projects: Path) -> None:
    lines = corpus.write(projects)
    world = World(database=database)
    import_(world, projects)
    before = spent(world), len(world.rows())
    again = import_(world, *sorted(projects.iterdir()), name="i2")
    assert again == m.ImportResult(files=4, lines=lines, added=0, duplicates=19, broken=corpus.BROKEN)
    assert (spent(world), len(world.rows())) == before


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_killed_after_any_batch_it_goes_on(
    database: Database, projects: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "LINES", 4)
    lines = corpus.write(projects)
    world = World(database=database)
    assert import_(world, projects, stop=lambda n: n == batch) is None
    assert isinstance(world.ledger.imports.runs[0], Run)
    result = import_(world, projects)
    assert result is not None
    assert (result.files, result.lines, result.added) == (4, lines, len(corpus.CALLS))
    assert world.total().spent_usd == corpus.TOTAL_USD


def test_what_a_session_of_ours_has_spoken_is_not_imported(database: Database, projects: Path) -> None:
    corpus.write(projects)
    world = World(database=database)
    world.open()
    conversation = "00000003-0000-4000-8000-000000000000"
    since = datetime(2026, 11, 5, tzinfo=UTC)  # b1 and b2 are from before it was resumed under Pointsman
    data = m.ConversationFollowed(session="web", conversation=conversation, cwd="/work/tool", since=since)
    world.fact(fact_of("conv", "conversation", data, START))
    result = import_(world, projects)
    assert result is not None
    assert result.added == len(corpus.CALLS) - 1
    assert spent(world) == sum(corpus.by_hand().values()) - corpus.by_hand()["b3"]


def test_models_without_a_price_are_never_free(database: Database, projects: Path) -> None:
    corpus.write(projects)
    (path,) = projects.glob("-work-tool/*.jsonl")
    text = path.read_text().replace(corpus.SONNET, "claude-nobody")
    path.write_text(text)
    world = World(database=database)
    import_(world, path)
    assert world.total().unpriced == ["claude-nobody"]
    found = say.answer("model", world.store.queries.ask("model", None, None, UTC), UTC)
    assert {row.key: row.unpriced for row in found.rows} == {"claude-nobody": True, corpus.HAIKU: False}
    bounded = say.answer(
        "model", world.store.queries.ask("model", datetime(2026, 11, 4, tzinfo=UTC), None, UTC), UTC
    )
    assert bounded == found


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "t"
    corpus.write(folder)
    world = World()
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    (folder / "empty.jsonl").touch()
    (folder / "binary.jsonl").write_bytes(bytes(range(256)) * 100)
    huge = folder / "huge.jsonl"
    huge.write_text(json.dumps({"type": "user", "text": "x" * 3_000_000}) + "\n")
    monkeypatch.setattr("services.ledger.files.MAX_LINE", 2_000_000)
    result = import_(world, folder, tmp_path / "never")
    assert result is not None
    assert (result.files, result.unreadable) == (7, 2)
    assert result.broken > corpus.BROKEN
    assert world.total().spent_usd == corpus.TOTAL_USD


def test_imports_count_in_periods_and_not_in_the_burn_rate(projects: Path) -> None:
    corpus.write(projects)
    world = World()
    import_(world, projects)
    periods = world.total().periods
    assert isinstance(periods, dict)
    assert periods["month"].spent_usd == corpus.TOTAL_USD
    assert periods["day"].spent_usd == 0
    assert world.total().burn_usd_per_h is None
    world.later(timedelta(days=40).total_seconds())
    periods = world.total().periods
    assert isinstance(periods, dict)
    assert periods["month"].spent_usd == 0
