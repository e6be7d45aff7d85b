"""A broker is left when it has owed something for long, and only then."""

from __future__ import annotations

from bus.patience import Patience


def looks(patience: Patience, *owed: bool) -> list[bool]:
    return [patience.look(owed=one) for one in owed]


def test_it_ends_after_so_many_looks_in_a_row() -> None:
    assert looks(Patience(3), True, True, True) == [False, False, True]


def test_nothing_owed_begins_anew() -> None:
    assert looks(Patience(3), True, True, False, True, True, True) == [False] * 5 + [True]


def test_any_acknowledgement_begins_anew() -> None:
    patience = Patience(2)
    assert looks(patience, True) == [False]
    patience.heard()
    assert looks(patience, True, True, True) == [False, False, True]
