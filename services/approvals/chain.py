"""The audit chain in the gate's database: appended, read in pages, and proven (`audit` has the theory).

The head is also noted in a file of the home's secrets, at the start and every `NOTE_EVERY_S`: a database that
was put back from an older copy does not have the row that the note names.
"""

from __future__ import annotations

import sqlite3  # noqa: TID251  # the store is where SQL stands
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from services.approvals import audit
from services.approvals.audit import BROKEN, Row, Seal, Verified, Walk

NOTE_EVERY_S = 60.0
PAGE = 500  # rows that are proven in one go, in about 3 ms: an approval waits no longer
PAGE_BYTES = 1024 * 1024  # of rows in one page of the export; a reply has at most 4 MiB

MIGRATION = "ALTER TABLE audit_head ADD COLUMN seal BLOB;"


class Chain:
    """Reads at any time; `append` and `seal_anew` within a transaction, which ends with `close`."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._db = connection
        self.seal = seal
        self.alarms: list[str] = []  # what was found wrong while appending
        self.written: tuple[int, bytes] | None = None  # the head as this process has last set it
        self._written_seal: bytes | None = None
        self._end: tuple[int, bytes] | None = None  # of what was appended in this transaction

    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last row, as kept beside the table."""
        n, digest = self._db.execute("SELECT n, hash FROM audit_head").fetchone()
        return n, digest

    @property
    def sealed(self) -> bool:
        n, digest, seal = self._db.execute("SELECT n, hash, seal FROM audit_head").fetchone()
        return self.seal.fits(seal, n, digest)

    def rows(self, after: int = 0, limit: int = -1) -> Iterator[Row]:
        """In order; read as they are asked for, so that a long chain fits any memory."""
        rows = self._db.execute(
            "SELECT n, at, action, approval, data, hash FROM audit WHERE n > ? ORDER BY n LIMIT ?",
            (after, limit),
        )
        return (Row(*row) for row in rows)

    def page(self, after: int, limit: int) -> list[Row]:
        """At least one row, if there is one, and as many as fit a message."""
        page: list[Row] = []
        room = PAGE_BYTES
        for row in self.rows(after, limit):
            room -= len(row.data) * 4  # bytes of a character, at most
            if page and room < 0:
                break
            page.append(row)
        return page

    def append(self, at: datetime, action: str, approval: str, data: Mapping[str, Any]) -> None:
        """The next row. Where the head does not fit, a row that says so comes first, for good."""
        if self._end is None:
            self._end = self._begin(at)
        self._end = self._link(self._end, at, action, approval, data)

    def close(self, *, kept: bool) -> None:
        """The transaction ends: the head is set, once for all rows of it."""
        end, self._end = self._end, None
        if kept and end is not None:
            self._set(*end)

    def _begin(self, at: datetime) -> tuple[int, bytes]:
        """Where the next row belongs."""
        n, digest, seal, last_n, last_digest = self._db.execute(
            "SELECT head.n, head.hash, seal, last.n, last.hash FROM audit_head AS head "
            "LEFT JOIN audit AS last ON last.n = (SELECT max(n) FROM audit)"
        ).fetchone()
        head, last = (n, digest), last_n or 0
        reason = None
        if last > n:
            reason, head = f"row {last} stands after the head, row {n}", (last, last_digest)
        elif last < n:
            reason = f"the head is row {n}, and the last row is {last}"
        elif self.written not in {None, head}:
            reason = f"the head was set back to row {n}: rows after it are missing"
        elif not self._fits(n, digest, seal):
            reason = f"the head (row {n}) was set by another than the gate: rows after it may be missing"
        if reason is None:
            return head
        self.alarms.append(reason)
        return self._link(head, at, BROKEN, "", {"reason": reason})

    def _link(
        self, head: tuple[int, bytes], at: datetime, action: str, approval: str, data: Mapping[str, Any]
    ) -> tuple[int, bytes]:
        row = audit.link(head, at.isoformat(), action, approval, data)
        self._db.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)",
            (row.n, row.at, row.action, row.approval, row.data, row.hash),
        )
        return row.n, row.hash

    def _set(self, n: int, digest: bytes) -> None:
        seal = self.seal.of(n, digest)
        self._db.execute("UPDATE audit_head SET n = ?, hash = ?, seal = ?", (n, digest, seal))
        self.written, self._written_seal = (n, digest), seal

    def _fits(self, n: int, digest: bytes, seal: bytes | None) -> bool:
        ours = self.written == (n, digest) and self._written_seal == seal  # computed once, when it was set
        return ours or self.seal.fits(seal, n, digest)

    def seal_anew(self) -> None:
        """Trust the head as it is: the chain begins, or its key was lost."""
        self._set(*(self._end or self.head()))

    def missing(self, note: tuple[int, bytes] | None) -> str | None:
        """Why the chain is not the one that was noted; None where it is."""
        if note is None or note == (0, audit.GENESIS):
            return None
        found = self._db.execute("SELECT hash FROM audit WHERE n = ?", (note[0],)).fetchone()
        if found is None:
            return f"row {note[0]} was there once and is not any more: was an older copy put back?"
        return None if found[0] == note[1] else f"row {note[0]} is another than it was"

    def prove(self, known: Iterable[tuple[int, bytes]]) -> Iterator[Verified | None]:
        """None after each page, the result at last. Rows may be appended in between."""
        walk = Walk(known)
        while not walk.done:
            page = list(self.rows(walk.n, PAGE))
            if not page:
                break
            walk.feed(page)
            yield None
        yield walk.end(self.head(), sealed=self.sealed)
