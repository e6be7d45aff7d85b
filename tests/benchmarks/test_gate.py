"""The gate's benchmark fills its store by hand: it has to follow the store's tables."""

from __future__ import annotations

import trio

from benchmarks.gate import measure


def test_it_measures_beside_what_was_decided_and_what_waits() -> None:
    found = trio.run(measure, 10, 2, 2)
    assert (found["decided_before"], found["waiting"]) == (10, 2)
    assert 0 < found["p50_ms"] <= found["p90_ms"]
