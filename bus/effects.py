"""What a core decides, in values: the shell (`services._process.station`) carries it out.

`Keep` subclasses and `Post` are written in one transaction; after its commit everything else happens, in the
order in which it was decided. So nothing is said that is not durable.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bus.errors import RefusedError
from bus.messages import Fact, Payload
from bus.topics import Topic


class Effect:
    """Base of everything that a core may ask for."""

    __slots__ = ()


class Keep(Effect):
    """To be kept in the service's store, within the transaction."""

    __slots__ = ()


class Do(Effect):
    """To be done by the service's own shell, after the commit."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Publish(Effect):
    """Say something on the bus. ``payload`` None clears a snapshot."""

    row: Topic
    payload: Payload | str | bytes | None
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Post(Effect):
    """Get a fact across to its owner, whatever crashes."""

    owner: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class ReplyTo(Effect):
    """Answer a command: with ``result``, or with ``error``. Without a request id nobody waits."""

    request_id: str | None
    result: Any = None
    error: RefusedError | None = None
