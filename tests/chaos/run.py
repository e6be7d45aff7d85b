"""One run: the stack, its users, the attacks, the rest at the end, and the verdict."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import attacks, evidence, invariants, look
from tests.chaos.client import Client
from tests.chaos.drivers import (
    Approver,
    Asker,
    Clock,
    Driver,
    Interrupter,
    Prompter,
    Sleeper,
    Treasurer,
)
from tests.support.messages_api import MessagesApi
from tests.support.scripted import ScriptedStack

REST_S = 6.0  # nothing has happened for so long: facts are sent again after 5
SETTLE_S = 180.0  # how long that may take after the last attack
SILENT_S = 35.0  # how long ingest waits for a sign of a prompt before it counts it as dropped, and a bit
RETAINED_S = 60.0
GONE_S = 90.0
BOOKING = (  # what killed agents could not report; what was written of it is booked within a few seconds
    "SELECT coalesce(sum(state = 'open' AND at / 1000 > strftime('%s', 'now') - 20), 0) FROM lost"
)
STORES = ("ingest", "approvals", "ledger", "tmux")


@dataclass(slots=True)
class Settings:
    """``seconds`` of attacks, or as long as the turn takes; ``pause_s`` is the mean between two by chance."""

    seed: int = 1
    seconds: float = 60.0
    broker: str = "mosquitto"
    sessions: int = 4
    pause_s: float = 0.7
    without: frozenset[str] = frozenset()
    turn: tuple[int, int] | None = (0, 1)  # the part of the table that is gone through first (`attacks`)
    real: bool = False  # the real Claude Code CLI, with a scripted Messages API


@dataclass(slots=True)
class Report:
    """What a run has shown."""

    settings: Settings
    violations: list[str]
    excused: Counter[str]
    attacks: Counter[str]
    said: Counter[str]
    sizes: dict[str, int]
    missed: list[str]  # attacks of the turn that found nothing to hit
    notes: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(count for what, count in self.attacks.items() if what.endswith(" kill"))

    def text(self) -> str:
        lines = [
            f"seed {self.settings.seed}, {self.settings.seconds:g} s on {self.settings.broker}: "
            f"{self.kills} kills, {sum(self.attacks.values())} attacks, {len(self.violations)} violations"
        ]
        lines += self._matrix()
        for title, rows in (
            ("evidence", self.sizes),
            ("commands and their answers", self.said),
            ("exceptions that the docs list", self.excused),
        ):
            lines.append(f"  {title}: " + ", ".join(f"{name} {n}" for name, n in sorted(rows.items())))
        return "\n".join([*lines, *(f"  VIOLATION {v}" for v in self.violations), *self.notes])

    def _matrix(self) -> list[str]:
        """Process by attack; a dash where there is no such attack."""
        lines = [f"  {'attacks':12}" + "".join(f"{action:>6}" for action in attacks.ACTIONS)]
        for target, actions in attacks.TARGETS.items():
            cells = (str(self.attacks[f"{target} {a}"]) if a in actions else "-" for a in attacks.ACTIONS)
            why = f"  {attacks.NO_CONNECTION[target]}" if target in attacks.NO_CONNECTION else ""
            lines.append(f"  {target:12}" + "".join(f"{cell:>6}" for cell in cells) + why)
        return [*lines, *(f"  MISSED in turn: {missed}" for missed in self.missed)]


class Run:
    """A context: the stack stands while it is open. ``folder`` is the run's own, and stays."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.settings = settings
        self.effects = folder / "effects"
        self.effects.mkdir(parents=True)
        self.sessions = [f"s{number}" for number in range(1, settings.sessions + 1)]
        self.api = MessagesApi() if settings.real else None
        self.stack = ScriptedStack(
            folder,
            api=self.api,
            POINTSMAN_BUS_BROKER=settings.broker,
            POINTSMAN_BUS_PORT=str(own_port()),
            POINTSMAN_APPROVALS_TIMEOUT_S="5",
            POINTSMAN_WATCHDOG_MAX_SESSIONS="100",
            POINTSMAN_LEDGER_DEFAULT_BUDGET_USD="1000000",
        )
        self._attacker: attacks.Attacker | None = None
        self._notes: list[str] = []
        self._numbers = itertools.count(1)  # of prompts

    def run(self) -> Report:
        """Everything, from the start to the verdict."""
        with self.api or nullcontext(), self.stack, ExitStack() as clients:
            bus = self.stack.bus()
            for name in self.sessions:
                self.stack.open(name)
            drivers = self._drivers(bus)
            for driver in drivers:
                driver.client.start()
                clients.callback(driver.client.close)
            recorder = clients.enter_context(self.stack.recorder())
            self._attack(drivers)
            user = str(bus["username"])
            waiting = self._look_while_questions_wait(drivers[-1], user)
            found = self._collect(drivers, recorder.all("approvals/+/outcome"), waiting, user)
            self.stack.pointsman("end", "--all")
            self._gone(found)
        violations, excused = invariants.check(found)
        return Report(
            self.settings,
            violations,
            excused,
            Counter(f"{blow.target} {blow.action}" for blow in self._blows),
            sum((driver.said for driver in drivers), Counter()),
            {
                "agent processes": len(found.processes),
                "prompts": len(found.promises),
                "questions": sum(len(process.of("question")) for process in found.processes),
                "tools that ran": sum(row["ran"] for p in found.processes for row in p.of("tool")),
                "bills": sum(len(process.of("bill")) for process in found.processes),
                "outcomes": len(found.outcomes),
                "effects": sum(found.effects.values()),
                "audit rows": len(found.audit),
                "snapshots compared": len(found.rest.stores) + len(found.waiting.stores),
            },
            [f"{attack.target} {attack.action}" for attack in self._attacker.missed]
            if self._attacker
            else [],
            self._notes,
        )

    @property
    def _blows(self) -> list[attacks.Blow]:
        return self._attacker.blows if self._attacker else []

    def _drivers(self, bus: dict[str, Any]) -> list[Driver]:
        numbers = self._numbers
        seeds = random.Random(self.settings.seed)

        def chance() -> random.Random:
            return random.Random(seeds.random())

        user = str(bus["username"])
        return [
            *(
                Prompter(Client(bus, f"prompter-{name}"), chance(), name, numbers, str(self.effects))
                for name in self.sessions
            ),
            *(Approver(Client(bus, f"approver-{number}"), chance(), user) for number in (1, 2)),
            Sleeper(Client(bus, "sleeper"), chance(), self.sessions),
            # An interrupt aborts a call that the real CLI leaves out of its own count (docs/costs.md).
            *(
                kind(Client(bus, kind.__name__.lower()), chance(), self.sessions)
                for kind in (Interrupter, Treasurer)
                if self.api is None
            ),
            Asker(Client(bus, "asker"), chance(), user),
        ]

    def _attack(self, drivers: list[Driver]) -> None:
        ended, calm, over = threading.Event(), threading.Event(), threading.Event()
        chance = random.Random(self.settings.seed)
        seed, without, turn = self.settings.seed, self.settings.without, self.settings.turn
        following = attacks.plan(seed, self.settings.pause_s, without=without)
        first = attacks.in_turn(seed, turn, without=without) if turn else []
        self._attacker = attacks.Attacker(self.stack, first, following, chance)
        for driver in drivers:
            driver.calm = calm
        threads = [threading.Thread(target=driver.run, args=(ended,)) for driver in drivers]
        attacker = threading.Thread(target=self._attacker.run, args=(over,))
        for thread in (*threads, attacker):
            thread.start()
        try:
            over.wait(self.settings.seconds)
            over.set()
            attacker.join()
            if not self._attacker.came_to_its_end:
                raise AssertionError("the attacker has died: its last words are above")
            calm.set()
            others = [t for t, d in zip(threads, drivers, strict=True) if not isinstance(d, Approver)]
            self._settle(lambda: any(thread.is_alive() for thread in others))
        finally:
            for event in (over, calm, ended):
                event.set()
            for thread in threads:
                thread.join()

    def _settle(self, busy: Callable[[], bool] = lambda: False) -> None:
        """Wait until every command is answered (nobody is ``busy``) and nothing has moved for a while."""
        clock, last, end = Clock(), b"", time.monotonic() + SETTLE_S
        while time.monotonic() < end:
            present = self._pulse()
            at_rest = present == last and b"busy" not in present and not busy()
            last = present
            if clock.has_been(at_rest) >= REST_S:
                return
            time.sleep(0.5)
        self._notes.append(f"  NOTE: not at rest within {SETTLE_S:g} s: {last.decode()}")

    def _look_while_questions_wait(self, asker: Driver, user: str) -> look.Look:
        assert isinstance(asker, Asker)
        count = asker.have_asked(self.sessions, self._numbers)
        end = time.monotonic() + SETTLE_S
        asked = "SELECT count(*) FROM approvals WHERE state = 'pending'"
        while time.monotonic() < end and self._ask("approvals", asked)[0][0] < count:
            time.sleep(0.2)
        found = self._look(user)
        asker.answer()
        self._settle()
        return found

    def _pulse(self) -> bytes:
        """Something that changes while anything happens, and says "busy" while anything waits."""
        size = self.stack.record.stat().st_size if self.stack.record.exists() else 0
        size += len(self.api.requests) if self.api else 0
        parts = [str(size)]
        for name, query in (
            ("ingest", "SELECT count(*) FROM prompts"),
            ("ingest", "SELECT count(*) FROM outbox"),
            ("approvals", "SELECT count(*) FROM approvals WHERE state = 'pending'"),
            ("approvals", "SELECT count(*) FROM outbox"),
            ("tmux", "SELECT count(*) FROM outbox"),
            ("ledger", "SELECT count(*) FROM inbox"),
            ("ledger", BOOKING),
        ):
            count = self._ask(name, query)[0][0]
            waits = count and "inbox" not in query
            parts.append(f"{name} {query.rsplit(maxsplit=1)[-1]} {'busy ' if waits else ''}{count}")
        return "; ".join(parts).encode()

    def _ask(self, store: str, query: str) -> list[Any]:
        """Read a service's database without touching it."""
        path = self.stack.home / f"{store}.sqlite"
        for _ in range(50):
            with (
                suppress(sqlite3.OperationalError),
                closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db,
            ):
                return db.execute(query).fetchall()
            time.sleep(0.1)
        raise AssertionError(f"{path} cannot be read")

    def _collect(
        self, drivers: list[Driver], outcomes: list[dict[str, Any]], waiting: look.Look, user: str
    ) -> evidence.Evidence:
        by_approval: dict[str, list[dict[str, Any]]] = {}
        for outcome in outcomes:
            by_approval.setdefault(outcome["id"], []).append(outcome)
        killed = [
            blow.pid for blow in self._blows if blow.target in ("agent", "keeper") and blow.action == "kill"
        ]
        rows = self._ask("approvals", "SELECT action, approval, data FROM audit ORDER BY n")
        inputs = "SELECT record, json FROM approvals JOIN inputs ON approval = id"
        real: dict[str, Any] = {}
        if self.api is not None:
            bills = [bill for bill in self.api.bills if not bill["probe"] and not bill["aborted"]]
            real = {
                "billed": [bill["cost_picodollars"] for bill in bills],
                "delivered": evidence.delivered(self.api.requests),
                "approved": evidence.approved(self._ask("approvals", inputs)),
            }
        rest = self._look(user)
        cost = self.stack.pointsman("cost")
        return evidence.Evidence(
            processes=evidence.processes(self.stack.record, killed),
            promises=[promise for driver in drivers for promise in driver.promises],
            effects=evidence.effects(self.effects),
            interrupted={session for driver in drivers for session in driver.interrupted},
            outcomes=by_approval,
            audit=[{"action": a, "approval": i, "data": json.loads(data)} for a, i, data in rows],
            audit_holds=self.stack.run("audit", "verify").returncode == 0,
            spent=round(cost["total"]["spent_usd"] * 10**12),
            booked=dict(self._ask("ledger", look.BOOKED)),
            transcribed=evidence.message_ids(self.stack.transcripts),
            rest=rest,
            waiting=waiting,
            **real,
            refused=[
                f"{store}: {row}"
                for store in STORES
                for row in self._ask(store, "SELECT owner, id, code, message FROM refused")
            ],
        )

    def _look(self, user: str) -> look.Look:
        """Until bus and stores agree, or long enough: what is kept is said a moment later."""
        end = time.monotonic() + RETAINED_S
        while True:
            with self.stack.recorder() as recorder:
                found = look.Look(stores=look.stores(self._ask, user))
                within = time.monotonic() + RETAINED_S
                while time.monotonic() < within and not found.stores.keys() <= set(recorder.topics()):
                    time.sleep(0.2)
                time.sleep(1.0)  # what stands beyond that: its end has no sign
                for topic in recorder.topics():
                    last = None if topic.startswith("services/") else recorder.last(topic)  # plain text
                    if last is not None:
                        if topic == "sessions/index":
                            last["sessions"] = look.by_name(last["sessions"])
                        found.snapshots[topic] = last
            if time.monotonic() > end or not list(found.differences()):
                return found

    def _gone(self, found: evidence.Evidence) -> None:
        """After the end of all sessions and Ctrl-C nothing of ours may be left."""
        deadline = time.monotonic() + GONE_S
        own = {os.getpid()}
        while time.monotonic() < deadline and any((self.stack.home / "sessions").iterdir()):
            time.sleep(0.2)
        self.stack.stop()
        while time.monotonic() < deadline and [p for p in self.stack.processes() if p.pid not in own]:
            time.sleep(0.2)
        for process in self.stack.processes():
            with suppress(Exception):  # it may be gone while we look
                found.left_over.append(f"process {process.pid} {' '.join(process.cmdline())}")
        found.left_over += [f"socket {path}" for path in self.stack.sockets()]
        found.left_over += [f"directory {path}" for path in (self.stack.home / "sessions").iterdir()]
        found.left_over += [f"a damaged database, {path}" for path in self.stack.home.glob("*.damaged-*")]


def own_port() -> int:
    """A port that nobody else will take while our broker is dead: not a default one, nor one for clients."""
    for port in random.Random().sample(range(20_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free between 20000 and 30000")


def run(folder: Path, settings: Settings) -> Report:
    """One run in ``folder``, which is made; it is removed again when nothing was violated."""
    report = Run(folder, settings).run()
    if not report.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return report
