"""A preview of some panels for the docs: the dashboards' queries, asked of a real Prometheus during a run.

`python -m benchmarks.panels docs/panels.svg [--minutes 3]` needs matplotlib (`pip install --group docs`).
The run is of scripted sessions, as in the soak; the picture says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.soak import soak
from grafana.build import BOARDS, Panel
from tests.deploy.test_prometheus import Prometheus

SHOWN = (
    "Sessions by status",
    "Memory by session",
    "Cost by model",
    "Decisions",
    "From question to decision",
    "Messages",
)
STEP_S = 2


def ask(port: int, query: str, begin: float, end: float) -> list[dict[str, Any]]:
    """The series of a range query."""
    words = {"query": query, "start": begin, "end": end, "step": STEP_S}
    url = f"http://127.0.0.1:{port}/api/v1/query_range?{urllib.parse.urlencode(words)}"
    with urllib.request.urlopen(url, timeout=20) as answer:  # loopback, our own Prometheus
        found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


def draw(path: Path, panels: list[Panel], data: dict[str, list[dict[str, Any]]]) -> None:
    import matplotlib as mpl  # only here: it is no dependency of anything else

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 7), facecolor="#181b1f")
    for panel, axis in zip(panels, axes.flat, strict=True):
        axis.set_facecolor("#111217")
        for series in data[panel.title]:
            label = " ".join(
                str(v) for k, v in series["metric"].items() if k not in ("__name__", "node", "job")
            )
            points = [(float(at), float(value)) for at, value in series["values"]]
            axis.plot(
                [at - points[0][0] for at, _ in points], [v for _, v in points], lw=1.4, label=label[:28]
            )
        axis.set_title(f"{panel.title} ({panel.unit})", color="#ccccdc", fontsize=10, loc="left")
        axis.tick_params(colors="#8e8e99", labelsize=7)
        axis.grid(color="#26282d", lw=0.6)
        for spine in axis.spines.values():
            spine.set_color("#26282d")
        if 0 < len(data[panel.title]) <= 12:
            axis.legend(fontsize=6, facecolor="#111217", edgecolor="#26282d", labelcolor="#ccccdc")
    figure.suptitle(
        "Preview, not a screenshot: the dashboards' queries, asked of Prometheus during a scripted run",
        color="#ccccdc",
        fontsize=9,
    )
    figure.tight_layout()
    figure.savefig(path, facecolor=figure.get_facecolor())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.panels")
    parser.add_argument("path", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    asked = parser.parse_args()
    panels = [panel for title in SHOWN for board in BOARDS for panel in board.panels if panel.title == title]
    data: dict[str, list[dict[str, Any]]] = {}

    with tempfile.TemporaryDirectory(prefix="pm-preview-") as name:
        folder = Path(name) / "run"

        def watch() -> None:
            targets = folder / "h" / "prometheus-targets.json"
            while not targets.exists():
                time.sleep(0.5)
            prometheus = Prometheus(Path(name), targets)
            begin = time.time()
            time.sleep(asked.minutes * 60)
            for panel in panels:
                queries = [q.replace("$node", ".*").replace("[5m]", "[30s]") for q, _ in panel.queries]
                data[panel.title] = [s for q in queries for s in ask(prometheus.port, q, begin, time.time())]
            prometheus.stop()

        watcher = threading.Thread(target=watch)
        watcher.start()
        soak(folder, asked.minutes, sessions=8, seed=1)
        watcher.join()
    draw(asked.path, panels, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
