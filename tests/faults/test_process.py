"""The gate as a process, on a disk that is full and with a database that is damaged."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services._process.home import Home
from services._process.run import EXIT_WORLD
from tests.services.approvals.support import fact, question
from tests.services.process.test_run import DEADLINE_S, ROOT, Broker, eventually, join

pytestmark = pytest.mark.real

TO_THE_GATE, FROM_THE_GATE = "facts/ingest/approvals", "acks/approvals/ingest"
Gate = subprocess.Popen[str]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def start(broker: Broker, home: Home, tmp_path: Path) -> Iterator[Callable[[], Gate]]:
    """Start the approvals service. Whatever is started is ended."""
    (tmp_path / "config.toml").touch()
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "POINTSMAN_HOME": str(home.path),
        "POINTSMAN_CONFIG": str(tmp_path / "config.toml"),
        "POINTSMAN_NODE_NAME": "toys",
        "POINTSMAN_BUS_BROKER": "external",
    }
    join(environ, broker)
    started: list[Gate] = []

    def start() -> Gate:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "services.approvals"],
                env=environ,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for gate in started:
        gate.kill()
        gate.communicate()


def ask(broker: Broker, approval: str) -> None:
    raw = msgspec.json.encode(fact(f"question-{approval}", "question", question(approval)))
    broker.client.publish(f"pointsman/toys/{TO_THE_GATE}", raw, qos=1)


def keeps(broker: Broker, approval: str) -> None:
    """Ask until it is acknowledged: whoever is not there yet hears nothing, and a producer sends again."""

    def kept() -> bool:
        ask(broker, approval)
        return f"question-{approval}" in acknowledged(broker)

    eventually(kept, f"{approval} is kept")


def acknowledged(broker: Broker) -> set[str]:
    with broker.changed:
        acks: list[dict[str, Any]] = [json.loads(raw) for topic, raw in broker.seen if topic == FROM_THE_GATE]
    return {fact_id for ack in acks for fact_id in ack["ids"]}


def pending(broker: Broker) -> list[str]:
    with broker.changed:
        said = broker.latest.get("approvals/pending")
    return [item["id"] for item in json.loads(said)["items"]] if said else []


def ended(gate: Gate) -> str:
    """What it said on stderr, once it has ended because of the world."""
    said = gate.communicate(timeout=DEADLINE_S)[1]
    assert gate.returncode == EXIT_WORLD, said
    return said


def test_a_full_disk_then_room(start: Callable[[], Gate], broker: Broker, home: Home) -> None:
    gate = start()
    keeps(broker, "before")
    resource.prlimit(gate.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # not a byte more
    ask(broker, "during")
    said = ended(gate)
    assert f"{home.store('approvals')} cannot be used any more: disk I/O error. Make room on its disk" in said
    assert acknowledged(broker) == {"question-before"}
    eventually(lambda: pending(broker) == ["before"], "the first waits")
    start()
    keeps(broker, "during")
    eventually(lambda: sorted(pending(broker)) == ["before", "during"], "both wait")


def test_a_damaged_database_is_never_replaced(start: Callable[[], Gate], broker: Broker, home: Home) -> None:
    gate = start()
    keeps(broker, "kept")
    gate.terminate()
    gate.communicate(timeout=DEADLINE_S)
    store = home.store("approvals")
    with closing(sqlite3.connect(store)) as connection:
        connection.execute(
            "PRAGMA wal_checkpoint(TRUNCATE)"
        )  # else the log has a good copy of the first page
    copy = store.read_bytes()
    store.write_bytes(b"\xff" * 100 + copy[100:])
    broken = store.read_bytes()
    said = ended(start())
    assert f"approvals: {store} cannot be used: " in said
    assert "left as it is, and nothing was put in its place. Move it away together with its -wal" in said
    assert store.read_bytes() == broken
    store.write_bytes(copy)
    with broker.changed:
        broker.latest.clear()
    start()
    eventually(lambda: pending(broker) == ["kept"], "what waited waits again")
