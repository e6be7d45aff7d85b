"""Ids that more than one process works out for itself."""

from __future__ import annotations

import base64
import hashlib


def approval_id(uid: str, process: int, request_id: str) -> str:
    """The id of the approval for a question of an agent: the same for whoever sees the question.

    ``request_id`` is the agent's own, unique within its process. 130 bits of SHA-256, so that an id cannot be
    made to collide by an agent that chooses its request ids.
    """
    digest = hashlib.sha256(f"{uid}|{process}|{request_id}".encode("utf-8", "surrogatepass")).digest()
    return "a" + base64.b32encode(digest)[:26].decode().lower()
