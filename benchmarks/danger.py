"""What it costs to assess a shell command: ``python -m benchmarks.danger [N]``.

Each of N commands of the tests' corpora is assessed as the gate does it, the parser being started for each
(nothing is remembered from the one before); and once more with its tree at hand, which is the judging alone.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from services.approvals.danger import assess
from services.approvals.danger.sight import Sight, Tree, Unparsed
from services.approvals.reading import parse
from services.approvals.world import sight

CORPORA = Path(__file__).parents[1] / "tests/services/approvals/danger"
HOME = "/home/ada/.local/state/pointsman"


def commands(name: str) -> list[str]:
    lines = [line for line in (CORPORA / name).read_text("utf-8").splitlines() if line and line[0] != "#"]
    texts = [line.partition(" ")[2] if name == "dangerous.txt" else line.removeprefix("~") for line in lines]
    return [json.loads(text) if text.startswith('"') and "\\" in text else text for text in texts]


def measure(texts: list[str], eyes: Callable[[], Sight]) -> list[float]:
    """Milliseconds of each assessment, in order."""
    spent = []
    for text in texts:
        parsed, sees = parse(json.dumps({"command": text})), eyes()
        begun = time.perf_counter()
        assess("Bash", parsed, "/work/app", HOME, sees)
        spent.append((time.perf_counter() - begun) * 1000)
    return sorted(spent)


def remembered(eyes: Sight) -> Callable[[str, float], Tree | Unparsed]:
    """Every text is parsed once, however long."""
    parse = cache(lambda text: eyes.parse(text, 60.0))
    return lambda text, _within_s: parse(text)


def same(eyes: Sight) -> Sight:
    return eyes


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    fresh = replace(sight(), user_home="/home/ada")
    for name in ("everyday.txt", "dangerous.txt"):
        texts = commands(name)[:count]
        known = replace(fresh, parse=remembered(fresh))
        measure(texts, partial(same, known))  # every tree is at hand from here on
        sides: list[tuple[str, Callable[[], Sight]]] = [
            ("with the parser", sight),
            ("judging alone", partial(same, known)),
        ]
        for what, eyes in sides:
            spent = measure(texts, eyes)
            row = {
                "corpus": name,
                "what": what,
                "commands": len(spent),
                "p50_ms": round(statistics.median(spent), 3),
                "p99_ms": round(spent[int(len(spent) * 0.99)], 3),
                "max_ms": round(spent[-1], 3),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
