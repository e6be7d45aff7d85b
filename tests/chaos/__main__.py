"""`python -m tests.chaos`: exit code 0 when nothing was violated, else 1."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.chaos.attacks import TARGETS
from tests.chaos.run import Settings, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="The crash test.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of attacks, on each broker")
    parser.add_argument("--broker", choices=("mosquitto", "amqtt", "both"), default="both")
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.7, help="mean seconds between two attacks")
    parser.add_argument("--without", default="", help=f"targets to spare: {', '.join(TARGETS)}")
    parser.add_argument("--real", action="store_true", help="the real Claude Code CLI, with a scripted model")
    asked = parser.parse_args()
    brokers = ("mosquitto", "amqtt") if asked.broker == "both" else (asked.broker,)
    violated = False
    for broker in brokers:
        folder = Path(tempfile.mkdtemp(prefix="pm-chaos-")) / "run"
        settings = Settings(
            seed=asked.seed,
            seconds=asked.seconds,
            broker=broker,
            sessions=asked.sessions,
            pause_s=asked.pause,
            without=frozenset(asked.without.split(",")),
            real=asked.real,
        )
        report = run(folder, settings)
        print(report.text(), flush=True)
        if report.violations:
            print(f"  everything about it is in {folder}", flush=True)
            violated = True
    return int(violated)


if __name__ == "__main__":
    sys.exit(main())
