"""What stands on the bus beside what stands in the stores, at one moment when nothing moves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Ask = Callable[[str, str], list[Any]]  # store, query → rows

PICO = 10**12
_APPROVAL = ("id", "session", "uid", "kind", "tool", "summary", "expires_at")
BOOKED = "SELECT session, sum(cost) FROM postings JOIN sessions USING (uid) GROUP BY uid"
"""Every name is used once in a run."""
_STATE = ("session", "uid", "kind", "title", "cwd", "turns", "last_message", "error")


@dataclass(slots=True)
class Look:
    """``snapshots``: what a newcomer is told, by topic below the node. ``stores``: what their owners keep,
    for the same topics; a snapshot may have more fields than its store is asked for.
    """

    snapshots: dict[str, Row] = field(default_factory=dict)
    stores: dict[str, Row] = field(default_factory=dict)

    def differences(self) -> Iterator[str]:
        """Both ways: what the stores have and the bus has not, and what stands that no store knows."""
        for topic, kept in self.stores.items():
            said = shown(self.snapshots.get(topic), kept)
            for name, value in kept.items():
                if not isinstance(said, dict) or said.get(name) != value:
                    found = said.get(name) if isinstance(said, dict) else None
                    yield f"{topic}: {name} is {found!r} on the bus and {value!r} in the store"
        for topic in self.snapshots.keys() - self.stores.keys():
            if _owned(topic):
                yield f"{topic} still stands, and no store knows of it"


def _owned(topic: str) -> bool:
    """Whether the stores are asked for every snapshot of its kind."""
    words = topic.split("/")
    return (words[0] in ("approvals", "ledger") and len(words) > 2) or (
        words[0] == "sessions" and words[-1] == "state"
    )


def shown(said: Any, kept: Any) -> Any:
    """What is kept, as it was said: other fields left out, rows by their id or session."""
    if isinstance(kept, dict) and isinstance(said, dict):
        return {name: shown(said.get(name), value) for name, value in kept.items()}
    if isinstance(kept, list) and isinstance(said, list) and len(kept) == len(said):
        return [shown(one, other) for one, other in zip(said, kept, strict=True)]
    return said


def stores(ask: Ask, user: str) -> dict[str, Row]:
    """What the owners' stores say should stand. ``user`` may decide, so each request has a token for them."""
    pending = [
        json.loads(record)
        for (record,) in ask("approvals", "SELECT record FROM approvals WHERE state = 'pending' ORDER BY n")
    ]
    items = [{name: a[name] for name in _APPROVAL if name != "uid"} | _level(a) for a in pending]
    found: dict[str, Row] = {
        "approvals/pending": {
            "count": len(pending),
            "oldest_id": pending[0]["id"] if pending else None,
            "items": items,
        }
    }
    for a in pending:
        found[f"approvals/{a['id']}/request"] = {name: a[name] for name in (*_APPROVAL, "input_sha256")}
        found[f"approvals/{a['id']}/tokens/{user}"] = {"id": a["id"]}
    records = [json.loads(data) for (data,) in ask("ingest", "SELECT data FROM sessions")]
    for record in records:
        open_ones = [a["id"] for a in pending if a["uid"] == record["uid"]]
        found[f"sessions/{record['session']}/state"] = {name: record[name] for name in _STATE} | {
            "pending_approvals": open_ones
        }
    found["sessions/index"] = {
        "sessions": [{"session": r["session"], "uid": r["uid"]} for r in by_name(records)]
    }
    costs = dict(ask("ledger", BOOKED))
    for session, uid in ask("ledger", "SELECT session, uid FROM sessions WHERE shown"):
        found[f"ledger/sessions/{session}"] = {
            "session": session,
            "uid": uid,
            "spent_usd": costs.get(session, 0) / PICO,
        }
    ((total,),) = ask("ledger", "SELECT coalesce(sum(cost), 0) FROM postings")
    found["ledger/total"] = {"spent_usd": total / PICO}
    return found


def by_name(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: str(row["session"]))


def _level(approval: Row) -> Row:
    return {"level": approval["danger"]["level"]}
