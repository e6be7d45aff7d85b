"""How the long run judges what it has measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.soak import Sample, kind_of, verdict

END_S = 600


def samples(**growth: float) -> list[Sample]:
    """Of one kind of process, every 5 s; ``growth`` in an hour, of each measure."""
    start = {"rss_mib": 40.0, "fds": 16.0, "threads": 2.0, "queue": 0.0, "count": 50.0}
    return [
        {"at_s": at, "process": "bridge"}
        | {name: value + growth.get(name, 0) * at / 3600 for name, value in start.items()}
        for at in range(0, END_S + 1, 5)
    ]


def grown(found: list[Sample]) -> list[str]:
    return [row["measure"] for row in verdict(found) if row["grew"]]


def test_what_stays_as_it_is_passes() -> None:
    assert grown(samples()) == []
    assert len(verdict(samples())) == 5


@pytest.mark.parametrize(
    ("measure", "an_hour"), [("rss_mib", 100), ("fds", 100), ("threads", 60), ("queue", 5000), ("count", 120)]
)
def test_what_grows_is_found_and_its_pace_told(measure: str, an_hour: float) -> None:
    found = samples(**{measure: an_hour})
    assert grown(found) == [measure]
    [row] = [row for row in verdict(found) if row["measure"] == measure]
    assert row["an_hour"] == pytest.approx(an_hour, rel=0.05)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["python", "-m", "services.ingest"], "ingest"),
        (["python", "-m", "services.supervision"], "supervision"),
        (["python", "/x/supervisord", "-c", "supervisord.conf"], "supervisord"),
        (["python", "-I", "-S", "/x/services/bridge/keeper.py", "/d", "1"], "keeper"),
        (["python", "-m", "services.bridge", "/d"], "bridge"),
        (
            ["tmux", "-S", "/h/tmux.sock", "new-session", "--", "python", "-m", "services.bridge"],
            "tmux server",
        ),
        (["sleep", "1"], "other"),
    ],
)
def test_each_process_has_its_kind(words: list[Any], kind: str) -> None:
    assert kind_of(words) == kind


@pytest.mark.parametrize(("windows", "grew"), [(1, ["rss_mib"]), (20, [])])
def test_tmux_may_fill_its_windows(windows: int, grew: list[str]) -> None:
    found = [{**s, "process": "tmux server", "rss_mib": 8 + s["at_s"] / 60} for s in samples()]
    found += [{**s, "process": "bridge", "count": windows} for s in samples()]
    assert grown(found) == grew
