"""The chain: any change, gap, addition or other order is found, and its place named."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.approvals import audit


def chain(length: int) -> list[audit.Row]:
    rows: list[audit.Row] = []
    head = (0, audit.GENESIS)
    for n in range(length):
        row = audit.link(head, f"2026-11-21T12:00:{n:02}Z", "decision", f"a{n}", {"z": n, "a": "é"})
        rows.append(row)
        head = (row.n, row.hash)
    return rows


def head(rows: list[audit.Row]) -> tuple[int, bytes]:
    return (rows[-1].n, rows[-1].hash) if rows else (0, audit.GENESIS)


@given(st.integers(0, 12))
def test_a_chain_holds(length: int) -> None:
    rows = chain(length)
    found = audit.verify(rows, head(rows))
    assert (found.rows, found.broken) == (length, None)


@given(st.integers(0, 7), st.sampled_from(["n", "at", "action", "approval", "data", "hash"]))
def test_any_change_is_found(at: int, field: str) -> None:
    rows = chain(8)
    end = head(rows)
    value = getattr(rows[at], field)
    changed = value + 1 if field == "n" else value[:-1] + (b"\0" if field == "hash" else "~")
    if changed == value:
        changed = value[:-1] + b"\1"
    rows[at] = msgspec.structs.replace(rows[at], **{field: changed})
    broken = audit.verify(rows, end).broken
    assert broken is not None
    assert broken.n in (at + 1, at + 2)


@given(st.integers(0, 7))
def test_a_missing_row_is_found_the_last_one_too(at: int) -> None:
    rows = chain(8)
    end = head(rows)
    del rows[at]
    broken = audit.verify(rows, end).broken
    assert broken is not None
    assert broken.n == at + 1


def rehashed(row: audit.Row, previous: bytes) -> audit.Row:
    digest = audit.digest(previous, row.n, row.at, row.action, row.approval, row.data)
    return msgspec.structs.replace(row, hash=digest)


@given(st.integers(0, 6))
def test_a_row_that_was_made_anew_with_its_own_hash_is_found_at_the_next(at: int) -> None:
    rows = chain(8)
    end = head(rows)
    forged = msgspec.structs.replace(rows[at], data='{"decision":"approve"}')
    rows[at] = rehashed(forged, rows[at - 1].hash if at else audit.GENESIS)
    broken = audit.verify(rows, end).broken
    assert broken is not None
    assert broken.n == at + 2


@given(st.integers(0, 6))
def test_a_gap_is_found_though_all_rows_after_it_were_made_anew(at: int) -> None:
    rows = chain(8)
    del rows[at]
    previous = audit.GENESIS
    for n, row in enumerate(rows):
        rows[n] = rehashed(row, previous)
        previous = rows[n].hash
    broken = audit.verify(rows, head(rows)).broken
    assert broken is not None
    assert broken.n == at + 1
    assert "is missing" in broken.reason


@given(st.permutations(range(6)))
def test_another_order_is_found(order: list[int]) -> None:
    rows = chain(6)
    found = audit.verify([rows[n] for n in order], head(rows)).broken
    assert (found is None) == (order == sorted(order))


def test_a_renumbered_gap_and_an_added_row_are_found() -> None:
    rows = chain(5)
    end = head(rows)
    closed = [*rows[:2], *(msgspec.structs.replace(row, n=row.n - 1) for row in rows[3:])]
    assert audit.verify(closed, end).broken is not None
    more = audit.link(end, "2026-11-21T13:00:00Z", "decision", "a9", {})
    assert audit.verify([*rows, more], end).broken is not None


@pytest.mark.parametrize("n", [1, 3])
def test_the_reason_names_the_row(n: int) -> None:
    rows = chain(4)
    rows[n - 1] = msgspec.structs.replace(rows[n - 1], data="{}")
    broken = audit.verify(rows, head(chain(4))).broken
    assert broken is not None
    assert f"row {n} was changed" in broken.reason


def test_a_head_that_another_set_is_found() -> None:
    rows = chain(4)
    found = audit.verify(rows, head(rows), sealed=False).broken
    assert found is not None
    assert "set by another than the gate" in found.reason


def test_a_row_that_was_there_once_must_be_there_as_it_was() -> None:
    rows = chain(4)
    assert audit.verify(rows, head(rows), known=[(2, rows[1].hash), (4, rows[3].hash)]).broken is None
    for known, says in (((2, b"x" * 32), "row 2 is another"), ((7, b"x" * 32), "row 7 was there once")):
        broken = audit.verify(rows, head(rows), known=[known]).broken
        assert broken is not None
        assert says in broken.reason


def test_what_the_gate_found_broken_stays_so() -> None:
    rows = chain(2)
    rows.append(audit.link(head(rows), "2026-11-21T12:01:00Z", audit.BROKEN, "", {"reason": "cut"}))
    rows.append(audit.link(head(rows), "2026-11-21T12:02:00Z", "decision", "a1", {}))
    found = audit.verify(rows, head(rows))
    assert (found.rows, found.broken and found.broken.n) == (4, 3)
    assert found.broken is not None
    assert found.broken.reason.endswith("says: cut")


def test_a_seal_is_for_one_head_and_by_one_key() -> None:
    old, new = b"o" * 32, b"n" * 32
    seal = audit.Seal([old]).of(7, b"h" * 32)
    assert audit.Seal([new, old]).fits(seal, 7, b"h" * 32)
    assert not audit.Seal([new]).fits(seal, 7, b"h" * 32)
    for other in ((6, b"h" * 32), (7, b"H" * 32)):
        assert not audit.Seal([old]).fits(seal, *other)
    assert not audit.Seal([old]).fits(None, 7, b"h" * 32)


@pytest.mark.parametrize("text", ["", "7", "x:00", "7:0g", ":"])
def test_a_noted_head_is_read_or_not(text: str) -> None:
    assert audit.read(text) is None
    assert audit.read(audit.written(7, b"h" * 32) + "\n") == (7, b"h" * 32)
