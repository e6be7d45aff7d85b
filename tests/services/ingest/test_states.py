"""Every pair of the table."""

from __future__ import annotations

import itertools

import pytest

from services.ingest.states import AWAKE, FINAL, LEGAL, IllegalTransitionError, Status, change

PAIRS = list(itertools.product(Status, repeat=2))
NAMES = {
    "starting", "ready", "working", "waiting_approval", "waiting_input", "compacting", "disconnected",
    "hibernating",
    "hibernated", "waking", "ended", "failed",
}  # fmt: skip  # contract, section 4


def test_the_statuses_are_the_contract_s() -> None:
    assert {str(status) for status in Status} == NAMES
    assert set(LEGAL) == set(Status)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_every_pair(old: Status, new: Status) -> None:
    if old is new:
        assert change(old, new) is False
        assert new not in LEGAL[old]
    elif new in LEGAL[old]:
        assert change(old, new) is True
    else:
        with pytest.raises(IllegalTransitionError):
            change(old, new)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_the_rules_behind_the_table(old: Status, new: Status) -> None:
    legal = new in LEGAL[old]
    if old in FINAL:
        assert not legal  # final
    elif new in FINAL:
        assert legal  # anything may end
    if new is Status.STARTING:
        assert not legal
    if new is Status.READY and old in AWAKE:
        assert legal is (old is Status.COMPACTING)
    if new is Status.HIBERNATING:
        assert legal is (old not in FINAL | {Status.HIBERNATING, Status.HIBERNATED})
    if new is Status.HIBERNATED:
        assert legal is (old in {Status.HIBERNATING, Status.WAKING})
    if new is Status.WAKING:
        assert legal is (old is Status.HIBERNATED)
    if old is Status.HIBERNATED:
        assert legal is (new in FINAL or new is Status.WAKING)


def test_every_status_can_be_reached() -> None:
    reached = {Status.STARTING}
    while more := {new for old in reached for new in LEGAL[old]} - reached:
        reached |= more
    assert reached == set(Status)
