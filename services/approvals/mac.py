"""HMAC-SHA256 under one key, which is taken in once. Pure.

Each signature starts from a copy: taking the key in anew takes twice as long, where it is done seldom.
"""

from __future__ import annotations

import hmac


class Mac:
    def __init__(self, key: bytes) -> None:
        self._keyed = hmac.new(key, digestmod="sha256")

    def of(self, message: bytes) -> bytes:
        """32 bytes."""
        signed = self._keyed.copy()
        signed.update(message)
        return signed.digest()
