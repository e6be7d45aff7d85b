"""The ledger's figures: series of sessions end with them, and models from agents are bounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from bus import messages as m
from services.ledger.metrics import MAX_MODELS, LedgerFigures
from tests.services.ledger.support import World

SESSIONS = 1000


def series(figures: LedgerFigures) -> set[str]:
    registry = CollectorRegistry()
    registry.register(figures)
    lines = generate_latest(registry).decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def test_a_thousand_ended_sessions_leave_nothing() -> None:
    world = World()
    figures = LedgerFigures(world.ledger)
    before = series(figures)
    entries = []
    for number in range(SESSIONS):
        uid, name = f"01JD{number:022}", f"s{number}"
        world.open(uid, name)
        entries.append(m.IndexEntry(session=name, uid=uid, kind="managed", status="ended"))
    assert len(series(figures)) >= len(before) + SESSIONS
    figures.listed(m.SessionIndex(sessions=entries, at=world.now))
    assert series(figures) == before


def test_names_of_models_do_not_pile_up() -> None:
    world = World()
    world.open()
    models = {f"model-{number}": "0.01" for number in range(MAX_MODELS + 50)}
    world.cost(1, "1", models)
    named = [
        name for name in series(LedgerFigures(world.ledger)) if name.startswith("pointsman_cost_dollars")
    ]
    assert len(named) == MAX_MODELS + 1
