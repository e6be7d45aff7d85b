"""What the ledger keeps of the second witness, in values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bus.effects import Do, Keep
from services.ledger.files import Place
from services.ledger.model import Use
from services.ledger.transcripts import Call


@dataclass(frozen=True, slots=True)
class Followed(Keep):
    """A conversation of a session. What its transcript had from before ``since``, when it was first read for
    it, is not its.
    """

    uid: str
    conversation: str
    cwd: str
    path: str | None
    since: datetime
    booked: bool


@dataclass(frozen=True, slots=True)
class Message(Keep):
    """A call of the model, as a transcript tells of it. ``use.cost`` is 0 where it is ``unpriced``.

    ``place`` numbers the messages of a session as they were read: those of one file in its order. 0: it was
    imported, or from before they were numbered. ``before`` is what was known of it. ``booked``: a posting
    stands for it.
    """

    key: str
    uid: str
    at: datetime
    model: str
    use: Use
    unpriced: bool
    booked: bool
    place: int = 0
    before: Message | None = None

    @property
    def message(self) -> str:
        """Its own id."""
        return self.key.partition("/")[0]

    def grown(self) -> Use:
        """What this telling adds to the one before."""
        return self.use if self.before is None else self.use.minus(self.before.use)


@dataclass(frozen=True, slots=True)
class ReadTo(Keep):
    """A file is read up to here."""

    path: str
    uid: str
    place: Place


@dataclass(frozen=True, slots=True)
class Lost(Keep):
    """A process is gone that has not reported what it spent on ``messages``, and what came after them.

    ``state``: ``open`` (to be booked), ``booked``, ``covered`` (a later total counts it after all: taken
    back) or ``gone`` (its transcript was not found). ``uses``: what was booked, by model. ``told``: tokens
    that its stream told of, by model.
    """

    fact: str
    uid: str
    process: int
    turn: int
    messages: tuple[str, ...]  # their ids: all that ingest has heard, or (an older ingest) the first
    whole: bool  # nothing came after them
    at: datetime
    notional: bool
    told: Mapping[str, Use]
    state: str = "open"
    uses: Mapping[str, tuple[Use, int | None]] | None = None
    beyond: int = 0  # 10⁻¹² dollars of it that stand in no transcript


@dataclass(frozen=True, slots=True)
class Told(Do):
    """For metrics: ``drift`` (1: it went out of bounds), ``lost`` (1: what was lost could not be booked)."""

    drift: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Witnessed:
    """The sum of a session's messages, and the last one's place."""

    uid: str
    cost: int
    last: int


@dataclass(frozen=True, slots=True)
class Archive:
    """Questions to the store."""

    known: Callable[[Sequence[str]], Mapping[str, Message]]  # by key
    spoken: Callable[[str, Sequence[str]], Sequence[Message]]  # of a session, by the messages' own ids
    between: Callable[[str, datetime, datetime], Sequence[Message]]  # of a session, both ends included
    spent: Callable[[str, datetime], int | None]  # of a session, up to then; None: nothing is known


Read = tuple[str, Sequence[Call], Sequence[tuple[str, Place]]]
"""(conversation, calls, how far each file is read)"""
