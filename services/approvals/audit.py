"""The audit chain: every request, decision and outcome, each row bound to all before it. Pure.

Theory of operation. Row n has ``hash = sha256(hash of row n-1 + canonical row n)``; the canonical row is the
JSON array ``[n, at, action, approval, data]`` of its columns as text. A changed, missing, added or reordered
row breaks the chain at a number that `Walk` names.

A chain that was cut at its end is whole, though. So the head (number and hash of the last row) is kept beside
the table in the same transaction, with a `Seal` over it under the gate's key: who may write the database but
has not the key can neither cut the chain and set the head back, nor compute it anew. The gate checks the seal
before it appends: what does not fit is never sealed over, but stands as a row ``broken`` from then on.

The seal cannot know that a whole file, head and all, is an older one. For that the head is noted outside of
the database (`services.approvals.chain`), and anyone may note it elsewhere and give it to `pointsman audit
verify`. What nothing here can show is in docs/security.md.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from services.approvals.mac import Mac

GENESIS = b"\0" * 32  # the hash before the first row
BROKEN = "broken"  # the action of a row that says that something before it is not as it was
_PURPOSE = "pointsman audit head 1"  # the key signs nothing else by accident


class Row(msgspec.Struct, frozen=True):
    """One row as it is kept. ``data`` is JSON text, ``at`` RFC 3339, ``approval`` an id or ""."""

    n: int
    at: str
    action: str  # request | decision | outcome | applied | users | keys | broken
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


class Seal:
    """``keys``: the first seals, each is accepted (`services.approvals.keys`)."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._macs = tuple(Mac(key) for key in keys)

    def of(self, n: int, digest: bytes) -> bytes:
        return self._seal(self._macs[0], n, digest)

    def fits(self, seal: bytes | None, n: int, digest: bytes) -> bool:
        return seal is not None and any(
            hmac.compare_digest(seal, self._seal(mac, n, digest)) for mac in self._macs
        )

    @staticmethod
    def _seal(mac: Mac, n: int, digest: bytes) -> bytes:
        return mac.of(msgspec.json.encode([_PURPOSE, n, digest.hex()]))


def digest(previous: bytes, n: int, at: str, action: str, approval: str, data: str) -> bytes:
    return hashlib.sha256(previous + msgspec.json.encode([n, at, action, approval, data])).digest()


def link(head: tuple[int, bytes], at: str, action: str, approval: str, data: Mapping[str, Any]) -> Row:
    """The next row after ``head``."""
    n = head[0] + 1
    text = msgspec.json.encode(data, order="sorted").decode()
    return Row(n, at, action, approval, text, digest(head[1], n, at, action, approval, text))


class Walk:
    """The proof, some rows at a time. ``known``: hashes that rows had once, by their number."""

    def __init__(self, known: Iterable[tuple[int, bytes]] = ()) -> None:
        self._known = list(known)
        self._broken: Broken | None = None
        self._noted: Broken | None = None
        self.n = 0
        self.hash = GENESIS

    @property
    def done(self) -> bool:
        """The chain does not hold: what comes after proves nothing."""
        return self._broken is not None

    def feed(self, rows: Iterable[Row]) -> None:
        """In order of n."""
        for row in rows:
            if self.done:
                return
            self._broken = self._step(row)

    def _step(self, row: Row) -> Broken | None:
        n = self.n + 1
        if row.n != n:
            return Broken(n, f"row {n} is missing: row {row.n} follows row {self.n}")
        if row.hash != digest(self.hash, row.n, row.at, row.action, row.approval, row.data):
            return Broken(n, f"row {n} was changed, or one before it")
        if any(number == n and once != row.hash for number, once in self._known):
            return Broken(n, f"row {n} is another than it was: it, or one before it, was made anew")
        self.n, self.hash = row.n, row.hash
        if row.action == BROKEN and self._noted is None:
            self._noted = Broken(n, f"row {n}, which the gate wrote at {row.at}, says: {_reason(row)}")
        return None

    def end(self, head: tuple[int, bytes], *, sealed: bool = True) -> Verified:
        """All rows were fed; ``head`` is the one kept beside them, ``sealed`` whether its seal fits."""
        broken = self._broken
        gone = [n for n, _ in self._known if n > self.n]
        if broken is None and (self.n, self.hash) != head:
            broken = Broken(self.n + 1, f"the chain ends at row {self.n}, and its head says row {head[0]}")
        if broken is None and not sealed:
            broken = Broken(
                self.n + 1,
                f"the head (row {self.n}) was set by another than the gate: rows after it may be missing",
            )
        if broken is None and gone:
            broken = Broken(self.n + 1, f"the chain ends at row {self.n}, and row {max(gone)} was there once")
        return Verified(self.n, self.hash, broken or self._noted)


def verify(
    rows: Iterable[Row],
    head: tuple[int, bytes],
    *,
    sealed: bool = True,
    known: Iterable[tuple[int, bytes]] = (),
) -> Verified:
    """Walk the rows in order of n; stops at the first that does not follow from the one before."""
    walk = Walk(known)
    walk.feed(rows)
    return walk.end(head, sealed=sealed)


def _reason(row: Row) -> str:
    return str(msgspec.json.decode(row.data).get("reason", ""))


def written(n: int, digest: bytes) -> str:
    """A head as people note it: ``<number>:<hash>``."""
    return f"{n}:{digest.hex()}"


def read(text: str) -> tuple[int, bytes] | None:
    """What `written` wrote, or None."""
    found = re.fullmatch(r"([0-9]{1,18}):([0-9a-f]{64})", text.strip())
    return (int(found[1]), bytes.fromhex(found[2])) if found else None
