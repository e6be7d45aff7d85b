"""What the judge may see of the world: handed in, so that judging stays a function of its arguments.

`services.approvals.world` makes the real one; `BLIND` sees nothing, and whatever it is asked about is
``high``.

Patience. An input is written by an agent, and may be written so that judging it takes minutes: wrappers
around wrappers, a million paths, brackets that a parser goes through again and again. The gate's loop waits
meanwhile, and everybody with it. So one judgment may take `Sight.limit_s` of processor time, of this process
and of the parsers that it starts (not of the clock on the wall: a machine that has much else to do makes no
harmless command dangerous). Whoever goes through something that an agent can make long asks now and then
whether it is over; then what was found until then stands, and with it that the input takes too long, which is
``critical``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")

LIMIT_S = 0.5  # usual is 0.002 to 0.005
LOOK_EVERY = 64  # steps of a microsecond or ten each; looking at the clock takes two
Tree = dict[str, Any]
"""A syntax tree as ``shfmt --to-json`` writes it: nodes with ``Type``, ``Stmts``, ``Cmd``, ``Parts``, …"""


class TooLongError(Exception):
    """The patience is over."""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """There is no tree; ``why`` says so to a person. ``broken`` when the text itself is at fault."""

    why: str
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """``parse`` takes a shell text and how many seconds it may take; ``resolve`` an absolute path and gives
    it without symbolic links (what does not exist stays as it is); ``exists`` whether anything is at an
    absolute path. ``user_home`` is where ``~`` leads, "" if
    nobody knows. ``spent``: seconds of the processor until now. None of them raises.

    ``until_s`` is when the patience is over, by ``spent``; None before the judgment begins.
    """

    parse: Callable[[str, float], Tree | Unparsed]
    # what a text says does not turn on it: texts that were read are remembered by the rest
    resolve: Callable[[str], str] = field(default=posixpath.normpath, compare=False)
    exists: Callable[[str], bool] = field(default=lambda _path: False, compare=False)
    user_home: str = ""
    spent: Callable[[], float] = lambda: 0.0
    limit_s: float = LIMIT_S
    until_s: float | None = field(default=None, compare=False)

    def once(self) -> Sight:
        """For one judgment: however often it asks where a path leads, it sees the same, and looks once. Its
        time begins now.
        """
        if self.until_s is not None:
            return self
        return replace(
            self,
            resolve=cache(self.resolve),
            exists=cache(self.exists),
            until_s=self.spent() + self.limit_s,
        )

    @property
    def left_s(self) -> float:
        """How much longer the judgment may take."""
        return self.limit_s if self.until_s is None else max(0.0, self.until_s - self.spent())

    def check(self) -> None:
        """Raises `TooLongError` if the patience is over."""
        if self.left_s <= 0:
            raise TooLongError

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """The items, while there is patience."""
        for number, item in enumerate(items):
            if number % LOOK_EVERY == 0:
                self.check()
            yield item


BLIND = Sight(parse=lambda _text, _within_s: Unparsed("no shell parser is at hand"))
