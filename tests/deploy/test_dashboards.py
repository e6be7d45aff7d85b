"""The dashboards as they are committed: made from the table, complete, readable by Grafana's library."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.build import BOARDS, COLUMNS, HERE, Board, built


def panels(board: Board) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(built(board))["panels"]
    return found


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_what_is_committed_is_what_the_table_makes(board: Board) -> None:
    path = HERE / "dashboards" / f"{board.uid.removeprefix('pointsman-')}.json"
    assert path.read_text() == built(board), "run `make docs`"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_grafanas_own_types_read_it_and_write_it_again(board: Board) -> None:
    document = json.loads(built(board))
    again = Dashboard.from_json(document)
    assert again.title == board.title
    assert len(again.panels or []) == len(board.panels)
    assert document["links"][0]["tags"] == ["pointsman"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_says_what_it_shows(board: Board) -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        if panel["type"] in {"stat", "bargauge"}:  # else Grafana takes 80 for a limit, of dollars as well
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert [step for step in steps if step["value"] is None] == steps[:1]
        for link in panel["fieldConfig"]["defaults"].get("links", []):
            assert link["url"].partition("?")[0].removeprefix("/d/") in {board.uid for board in BOARDS}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & places, f"{panel['title']} lies on another"
        places |= cells


def test_the_provisioning_is_yaml() -> None:
    for path in HERE.glob("provisioning/*/*.yml"):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
