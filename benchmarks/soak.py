"""The long run: many sessions at work, and what each process holds meanwhile. `make soak`.

Scripted sessions are prompted, approved, put to sleep and woken for ``--minutes``. Every few seconds each
process is measured: resident memory, file descriptors, threads; and each service's queue. Of a kind that has
many processes the largest counts, so that one that leaks does not hide among fifty, and their number, so that
none is left behind. Nothing may grow without bound: the last quarter's median is held against the second
quarter's, when everything has been used once. Exit code 1 when something has grown by more than `MAY_GROW`
and its `SLACK`. What grows more slowly than that passes: ``an hour`` says what it would come to, and a longer
run is stricter.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.client import Client
from tests.chaos.drivers import Approver, Driver, Prompter, Sleeper
from tests.support.scripted import ScriptedStack
from tests.support.stack import SERVICES, Recorder

EVERY_S = 5.0
MAY_GROW = 1.10
SLACK = {"rss_mib": 3.0, "fds": 4.0, "threads": 2.0, "queue": 200.0, "count": 5.0}
HISTORY_MIB = 1.0  # of each window that tmux's server keeps (`services.tmux.cli`): it fills up, and stays
MEASURES = tuple(SLACK)

Sample = dict[str, Any]


class Sampler:
    """Measures every process of the stack, by what it is."""

    def __init__(self, stack: ScriptedStack, recorder: Recorder) -> None:
        self._stack = stack
        self._recorder = recorder
        self._began = time.monotonic()
        self.samples: list[Sample] = []

    def run(self, ended: threading.Event) -> None:
        while not ended.wait(EVERY_S):
            self.measure()

    def measure(self) -> None:
        at = round(time.monotonic() - self._began, 1)
        found: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
        for process in self._stack.processes():
            with suppress(psutil.Error):
                figures = (process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
                found[kind_of(process.cmdline())].append(figures)
        for kind, rows in found.items():
            rss, fds, threads = zip(*rows, strict=True)
            sample: Sample = {
                "at_s": at,
                "process": kind,
                "count": len(rows),
                "rss_mib": max(rss),
                "fds": max(fds),
                "threads": max(threads),
            }
            if kind in SERVICES:
                health = self._recorder.last(f"services/{kind}/health")
                sample["queue"] = health["queue_depth"] if health else 0
            self.samples.append(sample)


def kind_of(words: list[str]) -> str:
    """What a process is, by its command line."""
    text = " ".join(words)
    if words and Path(words[0]).name == "tmux":  # its server's words are those that opened the first window
        return "tmux server"
    for name in SERVICES:
        if f"services.{name}" in words:
            return name
    for mark, kind in (
        ("keeper.py", "keeper"),
        ("agent.py", "agent"),
        ("services.bridge", "bridge"),
        ("services.supervision", "supervision"),
        ("supervisord", "supervisord"),
        ("mosquitto", "mqtt broker"),
        ("amqtt_server", "mqtt broker"),
    ):
        if mark in text:
            return kind
    return "other"


def verdict(samples: list[Sample]) -> list[dict[str, Any]]:
    """One row per process and measure: medians of the second and of the last quarter, and whether it grew."""
    end = max((sample["at_s"] for sample in samples), default=0.0)
    windows = max((sample["count"] for sample in samples if sample["process"] == "bridge"), default=0)
    rows = []
    for process in sorted({sample["process"] for sample in samples} - {"other"}):
        for measure in MEASURES:
            of = [(s["at_s"], s[measure]) for s in samples if s["process"] == process and measure in s]
            early = [value for at, value in of if end / 4 <= at < end / 2]
            late = [value for at, value in of if at >= end * 3 / 4]
            if not early or not late:
                continue
            before, after = statistics.median(early), statistics.median(late)
            slack = SLACK[measure]
            if (process, measure) == ("tmux server", "rss_mib"):
                slack = HISTORY_MIB * windows
            rows.append(
                {
                    "process": process,
                    "measure": measure,
                    "before": before,
                    "after": after,
                    "an_hour": (after - before)
                    / (end / 2)
                    * 3600,  # the quarters' middles are that far apart
                    "grew": after > before * MAY_GROW and after > before + slack,
                }
            )
    return rows


def soak(folder: Path, minutes: float, sessions: int, seed: int) -> tuple[list[Sample], dict[str, int]]:
    """Run it. Returns the samples, and how many commands had which answer."""
    chance = random.Random(seed)
    names = [f"s{number}" for number in range(1, sessions + 1)]
    stack = ScriptedStack(
        folder,
        POINTSMAN_WATCHDOG_MAX_SESSIONS=str(sessions * 2),
        POINTSMAN_LEDGER_DEFAULT_BUDGET_USD="1000000",
    )
    effects = folder / "effects"
    effects.mkdir()
    numbers = itertools.count(1)
    with stack, ExitStack() as clients:
        for name in names:
            stack.open(name)
        bus = stack.bus()
        drivers: list[Driver] = [
            *(
                Prompter(
                    Client(bus, f"p-{n}"), random.Random(chance.random()), n, numbers, str(effects), mean_s=12
                )
                for n in names
            ),
            *(
                Approver(Client(bus, f"a-{n}"), random.Random(chance.random()), str(bus["username"]))
                for n in (1, 2)
            ),
            Sleeper(Client(bus, "sleeper"), random.Random(chance.random()), names),
        ]
        ended, calm = threading.Event(), threading.Event()
        for driver in drivers:
            driver.calm = calm
            driver.client.start()
            clients.callback(driver.client.close)
        recorder = clients.enter_context(stack.recorder("services/+/health"))
        sampler = Sampler(stack, recorder)
        threads = [threading.Thread(target=driver.run, args=(ended,)) for driver in drivers]
        threads.append(threading.Thread(target=sampler.run, args=(ended,)))
        for thread in threads:
            thread.start()
        try:
            ended.wait(minutes * 60)
        finally:
            calm.set()
            ended.set()
            for thread in threads:
                thread.join()
    said: dict[str, int] = defaultdict(int)
    for driver in drivers:
        for what, count in driver.said.items():
            said[what] += count
    return sampler.samples, dict(said)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="The long run.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the samples go, as JSON")
    parser.add_argument("--plot", type=Path, help="where a plot goes, as SVG (needs matplotlib)")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pm-soak-")) / "run"
    samples, said = soak(folder, asked.minutes, asked.sessions, asked.seed)
    print(
        f"{asked.sessions} sessions for {asked.minutes:g} minutes: "
        + ", ".join(f"{what} {count}" for what, count in sorted(said.items()))
    )
    if not said:
        sys.exit("nobody did anything: what was measured is no run")
    rows = verdict(samples)
    print(f"{'process':12} {'measure':8} {'2nd quarter':>12} {'last quarter':>12} {'an hour':>10}")
    for row in rows:
        mark = "  GREW" if row["grew"] else ""
        print(
            f"{row['process']:12} {row['measure']:8} {row['before']:12.1f} {row['after']:12.1f} "
            f"{row['an_hour']:+10.1f}{mark}"
        )
    if asked.out:
        asked.out.write_text(json.dumps({"samples": samples, "verdict": rows, "said": said}))
    if asked.plot:
        draw(asked.plot, samples)
    return int(any(row["grew"] for row in rows))


def draw(path: Path, samples: list[Sample]) -> None:
    """Each measure over time, a line for each kind of process."""
    import matplotlib as mpl  # only here: it is no dependency of anything else

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(16, 8))
    axes.flat[-1].set_visible(False)
    for measure, axis in zip(MEASURES, axes.flat, strict=False):
        for process in sorted({sample["process"] for sample in samples} - {"other"}):
            of = [(s["at_s"] / 60, s[measure]) for s in samples if s["process"] == process and measure in s]
            if of:
                axis.plot(*zip(*of, strict=True), lw=1.2, label=process)
        axis.set_title(measure if measure == "count" else f"{measure} (the largest of a kind)", fontsize=10)
        axis.set_xlabel("minutes", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(lw=0.4)
    axes.flat[0].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
