"""The dashboards as they are committed: made from the table, complete, dashboards by Grafana's own types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.models import units

from grafana.build import BOARDS, COLUMNS, HERE, Board, built
from tests.deploy.grafana_types import faults

UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
VARIABLE = re.compile(r"\$\{?(?!_)(\w+)")  # $__name is Grafana's own


def panels(board: Board) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(built(board))["panels"]
    return found


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_what_is_committed_is_what_the_table_makes(board: Board) -> None:
    path = HERE / "dashboards" / f"{board.uid.removeprefix('pointsman-')}.json"
    assert path.read_text() == built(board), "run `make docs`"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_it_is_a_dashboard_by_grafanas_own_types(board: Board) -> None:
    document = json.loads(built(board))
    assert faults(document) == []
    assert document["title"] == board.title
    assert len(document["panels"]) == len(board.panels)
    assert document["links"][0]["tags"] == ["pointsman"]


Break = Callable[[dict[str, Any], dict[str, Any]], Any]


@pytest.mark.parametrize(
    "broken",
    [
        lambda _, panel: panel.update(type="statt"),
        lambda _, panel: panel.update(options=None),
        lambda _, panel: panel.update(legend="beside"),
        lambda _, panel: panel.update(targets={"expr": "up"}),
        lambda _, panel: panel.pop("type"),
        lambda _, panel: panel["gridPos"].update(x="0"),
        lambda _, panel: panel["options"].update(textMode="loud"),
        lambda _, panel: panel["targets"][0].update(expr=5),
        lambda _, panel: panel["targets"][0].update(query="up"),
        lambda _, panel: panel["datasource"].update(type="promtheus"),
        lambda _, panel: panel["fieldConfig"]["defaults"].update(unit=5),
        lambda _, panel: panel["fieldConfig"]["defaults"]["thresholds"].update(mode="relative"),
        lambda _, panel: panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1].update(value="1"),
        lambda whole, _: whole["panels"][6]["fieldConfig"]["defaults"]["custom"].update(stacking="up"),
        lambda whole, _: whole["templating"]["list"][0].update(type="datasauce"),
        lambda whole, _: whole.update(panels="none"),
    ],
)  # fmt: skip
def test_what_grafanas_types_forbid_is_found(broken: Break) -> None:
    whole = json.loads(built(BOARDS[0]))
    broken(whole, whole["panels"][0])
    assert faults(whole)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_variables_are_those_that_the_dashboard_has(board: Board) -> None:
    document = json.loads(built(board))
    names = {variable["name"] for variable in document["templating"]["list"]}
    assert set(VARIABLE.findall(json.dumps([document["panels"], document["templating"]]))) <= names | {
        "session"
    }
    if not board.by_session:
        assert not any("$session" in expression for panel in board.panels for expression, _ in panel.queries)


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_every_panel_says_what_it_shows(board: Board) -> None:
    places: set[tuple[int, int]] = set()
    for panel in panels(board):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
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
