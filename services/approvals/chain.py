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
    """Reads at any time; `append` and `seal_anew` within the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal) -> None:
        self._db = connection
        self.seal = seal
        self.alarms: list[str] = []  # what was found wrong while appending
        self.written: tuple[int, bytes] | None = None  # the head as this process has last set it

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
        n, digest, seal = self._db.execute("SELECT n, hash, seal FROM audit_head").fetchone()
        head, last = (n, digest), self._last()
        reason = None
        if last is not None and last[0] > head[0]:
            reason, head = f"row {last[0]} stands after the head, row {head[0]}", last
        elif (last[0] if last else 0) < head[0]:
            reason = f"the head is row {head[0]}, and the last row is {last[0] if last else 0}"
        elif self.written not in {None, head}:
            reason = f"the head was set back to row {head[0]}: rows after it are missing"
        elif not self.seal.fits(seal, n, digest):
            reason = (
                f"the head (row {head[0]}) was set by another than the gate: rows after it may be missing"
            )
        if reason is not None:
            self.alarms.append(reason)
            head = self._link(head, at, BROKEN, "", {"reason": reason})
        self._link(head, at, action, approval, dict(data))

    def _last(self) -> tuple[int, bytes] | None:
        found = self._db.execute("SELECT n, hash FROM audit ORDER BY n DESC LIMIT 1").fetchone()
        return (found[0], found[1]) if found else None

    def _link(
        self, head: tuple[int, bytes], at: datetime, action: str, approval: str, data: dict[str, Any]
    ) -> tuple[int, bytes]:
        row = audit.link(head, at.isoformat(), action, approval, data)
        self._db.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?)",
            (row.n, row.at, row.action, row.approval, row.data, row.hash),
        )
        self._set(row.n, row.hash)
        return row.n, row.hash

    def _set(self, n: int, digest: bytes) -> None:
        seal = self.seal.of(n, digest)
        self._db.execute("UPDATE audit_head SET n = ?, hash = ?, seal = ?", (n, digest, seal))
        self.written = (n, digest)

    def seal_anew(self) -> None:
        """Trust the head as it is: the chain begins, or its key was lost."""
        self._set(*self.head())

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
