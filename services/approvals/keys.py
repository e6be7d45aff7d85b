"""The gate's keys: ``secrets/approvals.key``, one a line, made at the first start (0600).

The first signs tokens and seals the audit's head; each is accepted. A new one is put before the old ones, so
that tokens which were read before stay good; the old ones go when what waited then is decided. Until then a
crash at any moment leaves a file that fits what is kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from services._process.errors import HomeError
from services._process.home import Home
from services.approvals.audit import Seal
from services.approvals.tokens import KEY_BYTES, Tokens

KEY = "approvals.key"  # in the home's secrets


class Keys:
    """``secret`` is told each key, so that no log shows it. Raises `HomeError` for a key that is too short.

    ``new``: there was no file.
    """

    def __init__(self, home: Home, secret: Callable[[str], None]) -> None:
        self._home = home
        self._secret = secret
        self.new = not (home.secrets / KEY).exists()
        self._keys = home.read_or_make_secret(KEY).split()
        if not self._keys or any(len(key) < KEY_BYTES for key in self._keys):
            raise HomeError(
                f"{home.secrets / KEY} must hold keys of at least {KEY_BYTES} characters, one a line: remove "
                "it and start again; a new one is made, and pending approvals get new tokens"
            )
        for key in self._keys:
            secret(key)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def tokens(self) -> Tokens:
        return Tokens([key.encode() for key in self._keys])

    @property
    def seal(self) -> Seal:
        return Seal([key.encode() for key in self._keys])

    def add(self) -> None:
        """A new key signs from now on. Durable on return."""
        key = secrets.token_urlsafe(KEY_BYTES)
        self._secret(key)
        self._write([key, *self._keys])

    def drop_old(self) -> None:
        """Only the newest is accepted from now on."""
        self._write(self._keys[:1])

    def _write(self, keys: list[str]) -> None:
        self._home.write_secret(KEY, "\n".join(keys))
        self._keys = keys
