"""What ingest keeps and asks for in sessions that are followed by their hooks: values only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from msgspec import Struct

from bus.effects import Do

HOOKED = ("interactive", "external")  # kinds that are followed by the hooks of their agent
SETTLED = timedelta(seconds=1)  # a `Presence` that is younger may change: between two dialogs, for a moment


class Presence(NamedTuple):
    """What an agent notes of itself: ``busy``, ``waiting`` (at a dialog) or ``idle``, and since when."""

    status: str
    since: datetime


class HookAnswer(Struct):
    """What a hook was answered: until the agent's next word shows what came of it."""

    decision: str  # approved | denied
    at: datetime
    changed: bool  # another input went back than was asked about
    by_rule: bool = False


class Screen(Struct):
    """What was last seen of a screen; not kept. ``dialog``: since when one stands there. ``refusals``: how
    often in a row the tmux controller would not type.
    """

    dialog: datetime | None = None
    refusals: int = 0


class Typing(Struct):
    """A prompt that the tmux controller was asked to type; ``id`` is the request's."""

    id: str
    uuid: str
    again: bool = False  # asked for again after a crash of ours: the keys may have been there already


@dataclass(frozen=True, slots=True)
class AnswerHook(Do):
    """Answer an HTTP request of a hook."""

    number: int
    body: str


@dataclass(frozen=True, slots=True)
class TypeIn(Do):
    """Have the tmux controller type a prompt; the answer goes to `Sessions.typed`."""

    uid: str
    process: int
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class PressKey(Do):
    """Have the tmux controller press a key; the answer goes to `Sessions.pressed`."""

    uid: str
    process: int
    key: str
