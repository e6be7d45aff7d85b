"""The table of topics: every row can be spelled, found again and subscribed, and no two rows are mixed up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import topics as t
from bus.base import BusBase  # noqa: F401  # the base must import without a broker
from bus.errors import MisuseError
from bus.memory import matches
from bus.router import Router
from bus.topics import PARAMETERS, TABLE, Kind, Topic

ACTORS = {"viewer", "approver", "operator", "device", "services",
          "broker", "ingest", "tmux", "approvals", "ledger", "watchdog"}  # fmt: skip
ROWS = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.pattern)
VALUE = {name: st.from_regex(pattern, fullmatch=True).map(str.strip) for name, pattern in PARAMETERS.items()}


def example(row: Topic) -> dict[str, str]:
    """One legal value for each parameter."""
    return {name: "total" if name == "period" else "session_x"[:7] for name in row.parameters}


@ROWS
def test_a_row_is_found_by_its_own_topic(row: Topic) -> None:
    values = example(row)
    path = row.path(**values)
    assert t.find(path) == (row, values)
    assert matches(row.filter(), path)
    assert matches(row.filter(**values), path)


@ROWS
def test_a_row_says_all_that_the_access_rules_need(row: Topic) -> None:
    assert row.writers <= ACTORS
    assert row.writers
    assert row.readers <= ACTORS
    assert row.readers
    assert row.about.endswith((".", "?"))
    assert row.retain == (row.kind is Kind.SNAPSHOT)
    assert row.qos == 1 or row.kind is Kind.EVENT


def test_no_pattern_stands_twice() -> None:
    assert len({re.sub(r"\{\w+\}", "+", row.pattern) for row in TABLE}) == len(TABLE)


@ROWS
@pytest.mark.parametrize("bad", ["", "a/b", "+", "#", "a#", "ä", "x\n", "x" * 65, "$SYS", "\0"])
def test_no_value_may_leave_its_level(row: Topic, bad: str) -> None:
    for name in row.parameters:
        with pytest.raises(MisuseError):
            row.path(**{**example(row), name: bad})
        if bad != "+":
            with pytest.raises(MisuseError):
                row.filter(**{name: bad})


@given(st.text(max_size=80))
def test_any_text_is_a_topic_of_one_row_or_of_none(text: str) -> None:
    found = t.find(text)
    if found is not None:
        row, values = found
        assert row.path(**values) == text


@given(st.data())
def test_the_router_finds_what_the_table_finds(data: st.DataObject) -> None:
    router = Router(root="pointsman", node="n1", service=None)
    row = data.draw(st.sampled_from(TABLE))
    values = {name: data.draw(VALUE[name]) for name in row.parameters}
    topic = router.topic(row, tuple(values.items()))
    route = router.route(topic)
    assert route is not None
    assert t.find(route.path) == (route.row, route.values)
    assert route.node == "n1"
    assert not route.wanted


def test_only_what_was_asked_for_is_wanted() -> None:
    router = Router(root="pointsman", node="n1", service="ingest")
    router.subscribe(t.SESSION_STATE, {"session": "a"})
    router.own(t.SESSION_STATE)
    asked = router.route("pointsman/n1/sessions/a/state")
    other = router.route("pointsman/n1/sessions/b/state")
    assert asked is not None
    assert other is not None
    assert (asked.wanted, asked.owned, other.wanted, other.owned) == (True, True, False, True)
    foreign = router.route("pointsman/n2/sessions/a/state")
    assert foreign is not None
    assert not foreign.owned


def test_a_service_owns_only_its_own_row_of_those_that_all_write() -> None:
    router = Router(root="pointsman", node="n1", service="ingest")
    assert router.own(t.SERVICE_HEALTH) == ("pointsman/n1/services/ingest/health", 1)
    other = router.route("pointsman/n1/services/ledger/health")
    assert other is not None
    assert not other.owned
