"""The broker's own table: the users of the bus. Opened durable: a user that was removed stays removed."""

from __future__ import annotations

import sqlite3  # noqa: TID251  # the store is where SQL stands

from bus import messages as m
from services.broker.users import DropUser, SaveUser

MIGRATIONS = (
    """
CREATE TABLE users (user TEXT PRIMARY KEY, role TEXT NOT NULL, max_level TEXT, since TEXT NOT NULL)
  WITHOUT ROWID;
""",
)


class Store:
    """Reads at any time; writes within the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def users(self) -> list[m.BusUser]:
        rows = self._db.execute("SELECT user, role, max_level, since FROM users ORDER BY since")
        return [m.BusUser(user=u, role=r, max_level=level, since=since) for u, r, level, since in rows]

    def save(self, effect: SaveUser) -> None:
        user = effect.user
        self._db.execute(
            "INSERT INTO users VALUES (?, ?, ?, ?)", (user.user, user.role, user.max_level, user.since)
        )

    def drop(self, effect: DropUser) -> None:
        self._db.execute("DELETE FROM users WHERE user = ?", (effect.name,))
