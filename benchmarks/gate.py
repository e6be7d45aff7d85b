"""What one approval costs the gate, by how many wait and how many were decided before:
``python -m benchmarks.gate [N]``.

The gate's own shell, core and store (on the disk, durable) on a bus in memory: an approval is asked and
decided, and what that takes of the processor is measured; the disk's own time is not in it. What was decided
before is copied from one real approval, with its input, audit rows, fact and command ids. One JSON line each.
"""

from __future__ import annotations

import gc
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio
from prometheus_client import CollectorRegistry, Counter

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.memory import MemoryBroker
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import captured_log
from services.approvals.keys import Keys
from services.approvals.shell import Shell

NODE = "node"
ROWS = 4  # of the audit, for an approval: request, decision, outcome, applied
COPIES = """
WITH RECURSIVE more (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM more WHERE k < :count)
"""


class Gate:
    """The gate in a home of its own."""

    def __init__(self, folder: str) -> None:
        environ = {"HOME": folder, "POINTSMAN_HOME": f"{folder}/home", "POINTSMAN_NODE_NAME": NODE}
        self.home = Home(Path(folder) / "home")
        self.broker = MemoryBroker()
        registry = CollectorRegistry()
        self.context = Context(
            service="approvals",
            config=load_config(environ),
            home=self.home,
            bus=self.broker.client(service="approvals"),
            log=captured_log()[0],
            registry=registry,
            errors=Counter("pointsman_errors", "errors", ["code"], registry=registry),
            now=lambda: datetime.now(UTC),
        )
        self.shell = Shell(self.context, environ)
        self.tokens = Keys(self.home, lambda _secret: None).tokens

    def ask(self, name: str) -> None:
        q = m.Question(
            approval=name, session="web", process=1, request_id=name, kind="tool", tool="Bash",
            tool_use_id=f"toolu_{name}", agent_id=None, input_json='{"command":"make deploy"}',
            description="", cwd="/work/app", permission_mode="default", suggestions=[], auto_approve=[],
        )  # fmt: skip
        fact = m.Fact(
            id=f"question-{name}", type="question", uid="01JD0000000000000000000000", at=datetime.now(UTC),
            data=codec.encode_data(q),
        )  # fmt: skip
        self._receive(t.FACTS, msgspec.json.encode(fact), producer="ingest", owner="approvals")

    def decide(self, name: str) -> None:
        a = self.shell.gate.find(name)
        assert a is not None
        token = self.tokens.issue("operator", a.id, a.uid, a.input_sha256, a.expires_at)
        body = {"id": f"d-{name}", "decision": "approve", "token": token}
        self._receive(t.APPROVAL_DECISION, json.dumps(body).encode(), id=name)

    def _receive(self, row: t.Topic, payload: bytes, **values: str) -> None:
        topic = f"pointsman/{NODE}/{row.path(**values)}"
        self.shell.station.receive(Received(row, values, payload, False, topic, NODE))

    def one(self, name: str) -> float:
        """CPU milliseconds of one approval."""
        before = time.process_time()
        self.ask(name)
        self.decide(name)
        return (time.process_time() - before) * 1000


def fill(path: Path, count: int) -> None:
    """Copies of the one approval that is in the store. The audit's head stays where it is: the rows before it
    are read by `audit verify` alone.
    """
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER audit_fixed")
    far = {"far": count * ROWS}
    db.execute("UPDATE audit SET n = n + :far", far)
    db.execute("UPDATE audit_head SET n = n + :far", far)
    for statement in (
        "INSERT INTO inputs SELECT 'x' || k, json FROM more, inputs WHERE approval = 'first'",
        "INSERT INTO approvals (id, state, created_at, record) SELECT 'x' || k, state, created_at, record "
        "FROM more, approvals WHERE id = 'first'",
        "INSERT INTO inbox SELECT 'question-x' || k, producer, kept_at FROM more, inbox "
        "WHERE id = 'question-first'",
        "INSERT INTO commands SELECT 'd-x' || k, sha256, reply, at FROM more, commands WHERE id = 'd-first'",
    ):
        db.execute(COPIES + statement, {"count": count})
    row = db.execute("SELECT at, action, approval, data, hash FROM audit WHERE action = 'outcome'").fetchone()
    rows = ((n, *row) for n in range(1, count * ROWS + 1))
    db.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.commit()
    db.close()


async def measure(decided: int, waiting: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if decided:
            first = Gate(folder)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.shell.run)
                await trio.sleep(0.1)
                first.one("first")
                await trio.sleep(0.1)
                nursery.cancel_scope.cancel()
            fill(first.home.store("approvals"), decided)
        began = time.process_time()
        gate = Gate(folder)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gate.shell.run)
            await trio.sleep(0.1)
            start_ms = (time.process_time() - began) * 1000
            for number in range(waiting):
                gate.ask(f"w{number}")
            await trio.sleep(0.1)
            for number in range(20):
                gate.one(f"warm{number}")
            gc.collect()
            spent = []
            for number in range(rounds):
                spent.append(gate.one(f"m{number}"))
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        size = gate.home.store("approvals").stat().st_size
    spent.sort()
    return {
        "decided_before": decided,
        "waiting": waiting,
        "p50_ms": round(statistics.median(spent), 3),
        "p90_ms": round(spent[int(rounds * 0.9)], 3),
        "start_ms": round(start_ms, 1),
        "database_mib": round(size / 2**20, 1),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for decided, waiting in ((0, 0), (0, 100), (10_000, 0), (10_000, 100), (100_000, 0), (100_000, 100)):
        print(json.dumps(trio.run(measure, decided, waiting, rounds)), flush=True)


if __name__ == "__main__":
    main()
