"""Owners as processes, on a disk that is full and with a database that is damaged."""

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
from tests.support.open_broker import DEADLINE_S, Broker, join
from tests.support.stack import ROOT, eventually

pytestmark = pytest.mark.real

TO_THE_GATE, FROM_THE_GATE = "facts/ingest/approvals", "acks/approvals/ingest"
OWNERS = ("approvals", "broker", "ingest", "ledger", "tmux")
Owner = subprocess.Popen[str]
Start = Callable[..., Owner]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def start(broker: Broker, home: Home, tmp_path: Path) -> Iterator[Start]:
    """Start a service, the gate if none is named. Whatever is started is ended."""
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
    started: list[Owner] = []

    def start(service: str = "approvals") -> Owner:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", f"services.{service}"],
                env=environ,
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for owner in started:
        owner.kill()
        owner.communicate()


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


def ended(gate: Owner) -> str:
    """What it said on stderr, once it has ended because of the world."""
    said = gate.communicate(timeout=DEADLINE_S)[1]
    assert gate.returncode == EXIT_WORLD, said
    return said


def test_a_full_disk_then_room(start: Start, broker: Broker, home: Home) -> None:
    gate = start()
    keeps(broker, "before")
    resource.prlimit(gate.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # not a byte more
    ask(broker, "during")
    said = ended(gate)
    assert f"{home.store('approvals')} cannot be used: disk I/O error. Make room on its disk" in said
    assert acknowledged(broker) == {"question-before"}
    eventually(lambda: pending(broker) == ["before"], "the first waits")
    start()
    keeps(broker, "during")
    eventually(lambda: sorted(pending(broker)) == ["before", "during"], "both wait")


def reports(broker: Broker) -> list[dict[str, Any]]:
    with broker.changed:
        return [json.loads(raw) for topic, raw in broker.seen if topic == "errors"]


def damaged(home: Home, service: str) -> list[Path]:
    """What was set aside, without its log and index."""
    found = sorted(home.path.glob(f"{service}.sqlite.damaged-*"))
    return [path for path in found if not path.name.endswith(("-wal", "-shm"))]


def stop(owner: Owner) -> None:
    owner.terminate()
    owner.communicate(timeout=DEADLINE_S)
    assert owner.returncode == 0


def test_damage_while_at_work_then_a_backup(start: Start, broker: Broker, home: Home) -> None:
    gate = start()
    keeps(broker, "kept")
    store = home.store("approvals")
    backup = home.path / "backup.sqlite"
    with closing(sqlite3.connect(store)) as running, closing(sqlite3.connect(backup)) as copy:
        running.backup(copy)  # as `sqlite3 FILE ".backup COPY"` does
        running.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    keeps(broker, "later")
    with closing(sqlite3.connect(store)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with store.open("r+b") as file:  # every page but the first, which the gate has in its memory
        file.seek(4096)
        file.write(b"\xa5" * (store.stat().st_size - 4096))
    ask(broker, "during")
    said = ended(gate)
    (aside,) = damaged(home, "approvals")
    assert f"approvals: {store} cannot be used: " in said
    assert f"It was set aside as {aside}, and nothing was put in its place. " in said
    assert not store.exists()
    eventually(lambda: [r for r in reports(broker) if str(aside) in r["message"]], "it is told on the bus")
    assert "question-during" not in acknowledged(broker)

    said = ended(start())  # as supervisord does
    assert f"it was found damaged, and lies as {aside}. Without it these are gone: the audit" in said
    assert not store.exists()

    backup.rename(store)
    start()
    eventually(lambda: pending(broker) == ["kept"], "what stood in the backup waits again")
    keeps(broker, "during")
    eventually(lambda: sorted(pending(broker)) == ["during", "kept"], "and what was not confirmed comes")


def test_no_owner_replaces_a_damaged_database(start: Start, broker: Broker, home: Home) -> None:
    for service in OWNERS:
        home.store(service).write_bytes(b"damaged" * 1000)
    for service in OWNERS:  # in turn: each has a second to connect and say on the bus why it ends
        said = ended(start(service))
        (aside,) = damaged(home, service)
        assert f"{service}: {home.store(service)} cannot be used: file is not a database. It was set" in said
        assert aside.read_bytes() == b"damaged" * 1000
    eventually(lambda: {r["service"] for r in reports(broker)} == set(OWNERS), "it is told on the bus")
    again = {service: start(service) for service in OWNERS}
    for service, owner in again.items():
        assert f"was found damaged, and lies as {damaged(home, service)[0]}" in ended(owner)
        assert not home.store(service).exists()

    (kept,) = damaged(home, "approvals")  # a person decides to begin with an empty one
    kept.rename(home.path.parent / kept.name)
    gate = start()
    keeps(broker, "new")
    stop(gate)
