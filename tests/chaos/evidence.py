"""What is known when the run is over: the agents' record, what users were promised, what services say.

Only the last comes from the services, and it is only ever held against the first two.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.demo.scripted import script
from tests.chaos.look import Look

Row = dict[str, Any]

MARK = re.compile(r"\bP(\d+)\b")
"""Every prompt carries a number of its own; what its tools leave on the disk carries it too."""


@dataclass(slots=True)
class Promise:
    """A prompt that a user sent. ``accepted`` None: the command was never answered."""

    number: int
    session: str
    text: str
    accepted: bool | None
    code: str | None = None


@dataclass(slots=True)
class Process:
    """One agent process, by its own record. ``killed``: it is among those that we killed."""

    pid: int
    session: str
    conversation: str
    rows: list[Row] = field(default_factory=list)
    killed: bool = False

    def of(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row["kind"] == kind]


@dataclass(slots=True)
class Evidence:
    """All of it. Money is in 10⁻¹² dollars."""

    processes: list[Process]  # scripted agents; the real one keeps no record, but its model does
    promises: list[Promise]
    effects: dict[str, int]  # mark of a tool call, like "P17.1" → how often its command ran
    interrupted: set[str] = field(default_factory=set)  # sessions that a user or a budget interrupted
    outcomes: dict[str, list[Row]] = field(default_factory=dict)  # approval → outcomes seen on the bus
    audit: list[Row] = field(default_factory=list)
    audit_holds: bool = True
    spent: int | None = None  # the ledger's total
    booked: dict[str, int] = field(default_factory=dict)  # session → its postings in the ledger's store
    transcribed: set[str] = field(default_factory=set)  # message ids in the transcripts
    rest: Look = field(default_factory=Look)  # when everything had come to rest
    waiting: Look = field(default_factory=Look)  # while a question of each session waited for its answer
    billed: list[int] | None = None  # by the real agent's model; None: the processes have their bills
    delivered: dict[int, int] | None = None  # prompt → how often it stands in what that model was asked
    approved: dict[str, int] | None = None  # mark → approvals of that command that the agent took
    refused: list[str] = field(default_factory=list)  # facts that their owner refused
    left_over: list[str] = field(default_factory=list)  # processes, sockets, windows, files at the end


def processes(record: Path, killed: Iterable[int]) -> list[Process]:
    """The agents' record, process by process. A line cut short by its writer's death is left out."""
    found: list[Process] = []
    present: dict[int, Process] = {}  # a number may be given out again
    dead = set(killed)
    for line in record.read_bytes().splitlines() if record.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        pid = row["pid"]
        if row["kind"] == "start" or pid not in present:
            present[pid] = Process(pid, row["session"] or "", row["session_id"], killed=pid in dead)
            found.append(present[pid])
        present[pid].rows.append(row)
    return found


def effects(folder: Path) -> dict[str, int]:
    """How often each marked command ran: it appends a line to a file of its own."""
    return {path.name: len(path.read_bytes().splitlines()) for path in folder.iterdir()}


def delivered(requests: list[Row]) -> dict[int, int]:
    """How often each prompt stands in one conversation, by what the model was asked."""
    found: dict[int, int] = {}
    for body in requests:
        text = "\n".join(script.prompts(body["messages"]))
        for number, count in Counter(
            int(n) for n in MARK.findall(re.sub(r"\S+/P\d+\.\d+", "", text))
        ).items():
            found[number] = max(found.get(number, 0), count)
    return found


def approved(rows: list[tuple[str, str]]) -> dict[str, int]:
    """(the approval's record, its input) → how often each marked command was approved and taken."""
    found: Counter[str] = Counter()
    for record, given in rows:
        outcome = json.loads(record).get("outcome") or {}
        mark = json.loads(given).get("command", "").rsplit("/", 1)[-1]
        if outcome.get("decision") == "approved" and outcome.get("applied"):
            found[mark] += 1
    return dict(found)


def message_ids(projects: Path) -> set[str]:
    """Of the model's answers that stand in the transcripts."""
    found = set()
    for path in projects.rglob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            if b'"assistant"' in line:
                try:
                    found.add(json.loads(line)["message"]["id"])
                except (ValueError, KeyError):
                    continue
    return found
