"""What the judge may see of the world: handed in, so that judging stays a function of its arguments.

`services.approvals.world` makes the real one; `BLIND` sees nothing, and whatever it is asked about is
``high``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

Tree = dict[str, Any]
"""A syntax tree as ``shfmt --to-json`` writes it: nodes with ``Type``, ``Stmts``, ``Cmd``, ``Parts``, …"""


@dataclass(frozen=True, slots=True)
class Unparsed:
    """There is no tree; ``why`` says so to a person. ``broken`` when the text itself is at fault."""

    why: str
    broken: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """``parse`` takes a shell text; ``resolve`` an absolute path and gives it without symbolic links (what
    does not exist stays as it is). ``user_home`` is where ``~`` leads, "" if nobody knows. Neither raises.
    """

    parse: Callable[[str], Tree | Unparsed]
    # what a text says does not turn on it: texts that were read are remembered by the rest
    resolve: Callable[[str], str] = field(default=posixpath.normpath, compare=False)
    user_home: str = ""

    def once(self) -> Sight:
        """For one judgment: however often it asks where a path leads, it sees the same, and looks once."""
        return replace(self, resolve=cache(self.resolve))


BLIND = Sight(parse=lambda _: Unparsed("no shell parser is at hand"))
