"""The audit chain: every request, decision and outcome, each row bound to all before it.

Theory of operation. Row n has ``hash = sha256(hash of row n-1 + canonical row n)``; the canonical row is the
JSON array ``[n, at, action, approval, data]`` of its columns as text. The head (number and hash of the last
row) is kept beside the table in the same transaction, so that rows missing at the end are noticed too. A
changed, missing, added or reordered row breaks the chain at a number that `verify` names. The chain holds
against accident and against careless hands; who can rewrite the whole file can compute it anew, so a person
who needs more writes the head down elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

GENESIS = b"\0" * 32  # the hash before the first row


class Row(msgspec.Struct, frozen=True):
    """One row as it is kept. ``data`` is JSON text, ``at`` RFC 3339, ``approval`` an id or ""."""

    n: int
    at: str
    action: str  # request | decision | outcome | applied
    approval: str
    data: str
    hash: bytes


class Broken(msgspec.Struct, frozen=True):
    """Where the chain does not hold, and why."""

    n: int
    reason: str


class Verified(msgspec.Struct, frozen=True):
    """``broken`` None: the chain holds over ``rows`` rows up to ``head``."""

    rows: int
    head: bytes
    broken: Broken | None


def digest(previous: bytes, n: int, at: str, action: str, approval: str, data: str) -> bytes:
    return hashlib.sha256(previous + msgspec.json.encode([n, at, action, approval, data])).digest()


def link(head: tuple[int, bytes], at: str, action: str, approval: str, data: dict[str, Any]) -> Row:
    """The next row after ``head``."""
    n = head[0] + 1
    text = msgspec.json.encode(data, order="sorted").decode()
    return Row(n, at, action, approval, text, digest(head[1], n, at, action, approval, text))


def verify(rows: Iterable[Row], head: tuple[int, bytes]) -> Verified:
    """Walk the rows in order of n; stops at the first that does not follow from the one before."""
    n, previous = 0, GENESIS
    for row in rows:
        if row.n != n + 1:
            return Verified(
                n, previous, Broken(n + 1, f"row {n + 1} is missing: row {row.n} follows row {n}")
            )
        if row.hash != digest(previous, row.n, row.at, row.action, row.approval, row.data):
            return Verified(n, previous, Broken(row.n, f"row {row.n} was changed, or one before it"))
        n, previous = row.n, row.hash
    if (n, previous) != head:
        return Verified(
            n, previous, Broken(n + 1, f"the chain ends at row {n}, and its head says row {head[0]}")
        )
    return Verified(n, previous, None)
