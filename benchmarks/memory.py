"""What one look of the watchdog at all processes costs: ``python -m benchmarks.memory [--processes 200]``.

Half of the processes carry a session's mark, ten to a session; the others are somebody else's. Each is a
Python with its standard library's usual size (about 9 MiB resident). Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from services.watchdog.memory import Sampler

PER_SESSION = 10
SLEEP = "import time; print('ready', flush=True); time.sleep(3600)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--samples", type=int, default=50)
    args = parser.parse_args()
    children = []
    try:
        for number in range(args.processes):
            mark = {"POINTSMAN_SESSION_UID": f"{number // PER_SESSION:026d}"} if number % 2 == 0 else {}
            children.append(
                subprocess.Popen([sys.executable, "-c", SLEEP], env=mark, stdout=subprocess.PIPE, text=True)
            )
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Sampler(Path(folder)), args.samples)))
    finally:
        for child in children:
            child.kill()
            child.wait()


def measure(sampler: Sampler, count: int) -> dict[str, float]:
    """CPU time, because it is what a look takes from others, and the same on a loaded machine."""
    took = []
    for number in range(count):
        start = time.process_time()
        sampler.sample({os.getpid(): "watchdog"}, float(number + 1))
        took.append((time.process_time() - start) * 1000)
    sample = sampler.sample({}, float(count + 1))
    return {
        "processes": sample.processes,
        "ours": sum(usage.processes for usage in sample.sessions.values()),
        "first_cpu_ms": round(took[0], 2),
        "median_cpu_ms": round(statistics.median(took[1:]), 2),
        "worst_cpu_ms": round(max(took[1:]), 2),
    }


if __name__ == "__main__":
    main()
