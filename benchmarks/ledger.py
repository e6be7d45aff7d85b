"""The ledger at scale: `python -m benchmarks.ledger [--lines N] [--sessions N] [--postings N]`.

Two things, each over a SQLite file of its own as the service opens it (synchronous=FULL):

- reading past transcripts in (aim: a million lines a minute), and a second time, which must add nothing;
- how soon a ledger with so many postings answers (aim: totals within 50 ms), and how long its start takes.
  Postings are written by SQL, their sums made by the ledger's own rebuild; each session has two models, and
  its costs lie within a few hours of a year.

Prints one JSON line for each figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from bus import messages as m
from bus.effects import Keep
from services.ledger import importer, say
from services.ledger.columns import to_ms
from services.ledger.core import Ledger
from services.ledger.database import open_database
from services.ledger.evidence_store import EvidenceStore
from services.ledger.forecast import HABIT_S
from services.ledger.prices import Prices
from services.ledger.standing import Standing
from services.ledger.store import Store

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
CONVERSATIONS = 200
ROUNDS = 15
encode = msgspec.json.encode


def show(name: str, **figures: Any) -> None:
    print(json.dumps({"name": name, **figures}), flush=True)


class Bench:
    """A ledger without a bus."""

    def __init__(self, path: Path) -> None:
        self.database = open_database(path, path)
        self.store = Store(self.database)
        self.evidence = EvidenceStore(self.database, self.store)
        self.standing = Standing(self.database.mailbox)

    def start(self) -> Ledger:
        return Ledger(
            zone=UTC,
            default_budget=None,
            loaded=self.store.load(NOW, HABIT_S),
            recall=self.store.near,
            archive=self.evidence.archive,
            prices=Prices(),
            now=NOW,
            stood=self.standing.load(),
        )


def transcripts(root: Path, lines: int) -> None:
    """As Claude Code writes them: two lines of an answer, and three that are none; about a kilobyte each."""
    text = "x" * 700
    usage = {
        "input_tokens": 4, "output_tokens": 300, "cache_read_input_tokens": 41_000,
        "cache_creation_input_tokens": 900,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 900},
    }  # fmt: skip
    for conversation in range(CONVERSATIONS):
        name = f"{conversation:08}-0000-4000-8000-000000000000"
        path = root / "-work-app" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        whose = {"parentUuid": name, "sessionId": name, "cwd": "/work/app", "version": "2.1.329"}
        begun = NOW - timedelta(days=conversation % 20 + 1)
        with path.open("w") as file:
            for n in range(lines // CONVERSATIONS):
                call, part = divmod(n, 5)
                line: dict[str, Any] = {**whose, "timestamp": (begun + timedelta(seconds=call)).isoformat()}
                if part < 2:
                    name_of = f"{conversation}_{call}"
                    content = [{"type": "text", "text": text}]
                    line["message"] = {
                        "id": f"msg_{name_of}", "role": "assistant", "model": "claude-opus-5-5",
                        "content": content, "usage": usage,
                    }  # fmt: skip
                    line |= {"type": "assistant", "requestId": f"req_{name_of}", "uuid": f"{name_of}-{part}"}
                else:
                    line |= {"type": "user", "message": {"role": "user", "content": text}}
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


def read_in(bench: Bench, root: Path, name: str) -> tuple[float, float, Any]:
    ledger = bench.start()

    def act(effects: Any) -> None:
        with bench.database.relaxed(), bench.database.transaction():
            for effect in effects:
                if isinstance(effect, Keep) and not bench.evidence.keep(effect):
                    bench.store.keep(effect)

    began, began_cpu = time.perf_counter(), time.process_time()
    act(ledger.imports.begin(m.LedgerImport(id=name, paths=[str(root)]), NOW))
    run = ledger.imports.runs[0]
    for file, start in importer.left(run, list(importer.sizes_of(run.paths))):
        end = False
        while not end:
            batch = importer.read_batch(file, start)
            run, effects = ledger.imported(run, batch, NOW)
            act(effects)
            start, end = batch.read_to, batch.end
    act(ledger.imports.finish(run, NOW))
    return time.perf_counter() - began, time.process_time() - began_cpu, run


def bench_import(folder: Path, lines: int) -> None:
    root = folder / "projects"
    transcripts(root, lines)
    bench = Bench(folder / "import.sqlite")
    for name in ("first", "second"):
        took, cpu, run = read_in(bench, root, name)
        show(
            f"import, {name}", lines=run.lines, added=run.added, seconds=round(took, 2), cpu_s=round(cpu, 2),
            lines_per_minute=round(run.lines / took * 60),
        )  # fmt: skip


POSTINGS = """
WITH RECURSIVE counted (i) AS (SELECT ? UNION ALL SELECT i + 1 FROM counted WHERE i + 1 < ?)
INSERT INTO postings (id, uid, process, turn, model, at, cost, input, output, cache_read, cache_write,
  cache_write_5m, cache_write_1h, turns, share, source, estimated, priced, notional, fact)
SELECT printf('p%012d', i), 's' || (i % ?1s), 1, i,
  CASE (i / ?1s) % 2 WHEN 0 THEN 'claude-opus-5-5' ELSE 'claude-haiku-4-5' END,
  ? + (i % ?1s) * 3150000 + (i / ?1s) * 20000, 1000000 + i % 1000, 4, 200, 40000, 900, 0, 900, 1, 1, 'agent',
  0, 1000000, 0, 'f'
FROM counted
"""


def bench_scale(folder: Path, sessions: int, postings: int) -> None:
    bench = Bench(folder / "scale.sqlite")
    first = to_ms(NOW - timedelta(days=365))
    with bench.database.transaction():
        bench.database.executemany(
            "INSERT INTO sessions (uid, session, cwd, kind, opened_at, shown) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (f"s{n}", f"session-{n}", f"/work/{n % 300}", "managed", first, int(n > sessions - 50))
                for n in range(sessions)
            ],
        )
    bench.database.execute(
        "DROP INDEX postings_at"
    )  # made again below: in order it takes a tenth of the time
    bench.database.execute("PRAGMA synchronous = OFF")
    sql, step = POSTINGS.replace("?1s", str(sessions)), 500_000
    for start in range(0, postings, step):
        bench.database.execute(sql, (start, min(start + step, postings), first))
    bench.database.execute("CREATE INDEX postings_at ON postings (at)")
    began = time.perf_counter()
    with bench.database.transaction():
        bench.store.rebuild()
    show("sums made again", postings=postings, seconds=round(time.perf_counter() - began, 2))
    began = time.perf_counter()
    assert bench.store.derived_agrees(whole=True)
    show("whole check", postings=postings, seconds=round(time.perf_counter() - began, 2))
    began = time.perf_counter()
    assert bench.store.derived_agrees()
    checked = time.perf_counter()
    ledger = bench.start()
    loaded = time.perf_counter()
    show("start", sessions=sessions, check_s=round(checked - began, 2), load_s=round(loaded - checked, 2))

    def answer(by: str, since: datetime | None) -> Callable[[], object]:
        return lambda: encode(say.answer(by, bench.store.queries.ask(by, since, None, UTC), UTC))

    day, month = NOW - timedelta(days=1), NOW - timedelta(days=30)
    asked: dict[str, Callable[[], object]] = {"total snapshot": lambda: ledger._total(NOW)}
    for by in ("session", "model", "day", "project"):
        asked |= {
            f"{by}, of all time": answer(by, None),
            f"{by}, a day": answer(by, day),
            f"{by}, a month": answer(by, month),
            f"{by}, half a year": answer(by, NOW - timedelta(days=183)),
            f"{by}, eleven months": answer(by, NOW - timedelta(days=335)),
        }
    for name, ask in asked.items():
        took, cpu = [], []
        for _ in range(ROUNDS):
            began, began_cpu = time.perf_counter(), time.process_time()
            ask()
            took.append((time.perf_counter() - began) * 1000)
            cpu.append((time.process_time() - began_cpu) * 1000)
        show(name, ms_median=round(statistics.median(took), 2), cpu_ms=round(statistics.median(cpu), 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--postings", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.lines:
            bench_import(Path(folder), options.lines)
        if options.postings:
            bench_scale(Path(folder), options.sessions, options.postings)


if __name__ == "__main__":
    main()
