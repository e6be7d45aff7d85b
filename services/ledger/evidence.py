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
    """A conversation of a session. What stands in its transcript from before ``since`` is not its."""

    uid: str
    conversation: str
    cwd: str
    path: str | None
    since: datetime
    booked: bool


@dataclass(frozen=True, slots=True)
class Message(Keep):
    """A call of the model, as a transcript tells of it. ``use.cost`` is 0 where it is ``unpriced``.

    ``before`` is what was known of it. ``booked``: a posting stands for it.
    """

    key: str
    uid: str
    at: datetime
    model: str
    use: Use
    unpriced: bool
    booked: bool
    before: Message | None = None

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
    """A process is gone that has not reported what it spent from message ``first`` on.

    ``state``: ``open`` (to be booked), ``booked``, ``covered`` (a later total counts it after all: taken
    back) or ``gone`` (its transcript was not found). ``uses``: what was booked, by model. ``told``: tokens
    that its stream told of, by model.
    """

    fact: str
    uid: str
    process: int
    turn: int
    first: str
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
    """The sum of a session's messages."""

    uid: str
    cost: int


@dataclass(frozen=True, slots=True)
class Archive:
    """Questions to the store."""

    known: Callable[[Sequence[str]], Mapping[str, Message]]  # by key
    first: Callable[[str, str], datetime | None]  # (uid, message id) → when it began
    between: Callable[[str, datetime, datetime], Sequence[Message]]  # of a session, both ends included
    spent: Callable[[str, datetime], int | None]  # of a session, up to then; None: nothing is known


Read = tuple[str, Sequence[Call], Sequence[tuple[str, Place]]]
"""(conversation, calls, how far each file is read)"""
