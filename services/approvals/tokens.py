"""Tokens: what proves who decides.

A token is ``<user>.<HMAC-SHA256 in url-safe base64>``, one for each user who may decide. The broker's access
rules let each user read their own alone, so whoever sends it back is that user. The HMAC is over everything
that was shown for decision: another approval, another session, another input, another user or another expiry
is another token. It needs no table: the same key gives the same token after any restart.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from bus.errors import MisuseError
from services.approvals.mac import Mac

KEY_BYTES = 32  # as long as the hash (RFC 2104, section 3)
_PURPOSE = "pointsman approval token 1"  # the key signs nothing else by accident


class Tokens:
    """``keys``: the first signs, each is accepted, so that a key can be replaced while approvals wait."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) < KEY_BYTES for key in keys):
            raise MisuseError(f"a token key has at least {KEY_BYTES} bytes")
        self._macs = tuple(Mac(key) for key in keys)

    def issue(self, user: str, *claims: str | datetime | None) -> str:
        """``claims`` are approval id, uid, input_sha256 and expiry (None: never), in this order."""
        return self._sign(self._macs[0], user, claims)

    def who(self, token: str, users: Iterable[str], *claims: str | datetime | None) -> str | None:
        """The user whose token for these claims this is, or None. Takes the same time whoever it is."""
        given = token.encode("utf-8", "surrogatepass")
        proven = None
        for user in users:
            for mac in self._macs:
                if hmac.compare_digest(given, self._sign(mac, user, claims).encode()):
                    proven = user
        return proven

    @staticmethod
    def _sign(mac: Mac, user: str, claims: Sequence[str | datetime | None]) -> str:
        message = msgspec.json.encode([_PURPOSE, user, *claims])
        return f"{user}.{base64.urlsafe_b64encode(mac.of(message)).rstrip(b'=').decode()}"
