"""What people had remembered: narrow rules of the gate, each made from one decision. Pure.

A remembered rule is about this tool in this directory, and there about this file (for tools that name one) or
this very input (a command to the letter; what it is said to be for and how long it may take do not count). It
holds up to the danger level that the decision was about: if the same call counts as more dangerous later, a
person is asked again.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Literal, Protocol

import msgspec

from bus.messages import level_rank
from services.approvals.calls import Call

_FILES = ("file_path", "notebook_path")
_BESIDES = frozenset({"description", "timeout"})  # of an input: they say nothing of what is done


class Asked(Protocol):
    """What a question says of itself before its input is read."""

    @property
    def tool(self) -> str: ...
    @property
    def cwd(self) -> str: ...
    @property
    def uid(self) -> str: ...


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """``uid`` None: for every session in that directory. ``path`` or ``input_key`` says what it is about."""

    id: str
    decision: Literal["allow", "deny"]
    tool: str
    directory: str
    uid: str | None
    session: str
    path: str | None
    input_key: str | None
    max_level: str
    summary: str
    by: str
    approval: str
    at: datetime

    def may_be_about(self, a: Asked) -> bool:
        """Whether `matches` is worth asking, which takes reading the whole input."""
        return a.tool == self.tool and a.cwd == self.directory and self.uid in (None, a.uid)

    def matches(self, call: Call) -> bool:
        if call.kind != "tool" or call.tool != self.tool or call.cwd != self.directory or not call.readable:
            return False
        if self.uid is not None and call.uid != self.uid:
            return False
        if self.decision == "allow" and level_rank(call.danger.level) > level_rank(self.max_level):
            return False
        if self.path is not None:
            return file_of(call) == self.path
        return input_key(call.value) == self.input_key


def file_of(call: Call) -> str | None:
    """The one file that the tool names."""
    named = [name for name in _FILES if name in call.value]
    return call.paths[0] if len(named) == 1 and call.paths else None


def input_key(value: dict[str, Any]) -> str:
    told = {key: item for key, item in value.items() if key not in _BESIDES}
    return hashlib.sha256(msgspec.json.encode(told, order="sorted")).hexdigest()


def remembered(
    call: Call,
    decision: Literal["allow", "deny"],
    *,
    approval: str,
    summary: str,
    by: str,
    once: bool,
    now: datetime,
) -> Remembered:
    """``once``: for this session alone."""
    path = file_of(call)
    digest = hashlib.sha256(f"{approval}|{decision}".encode()).hexdigest()
    return Remembered(
        id=f"r-{digest[:10]}",
        decision=decision,
        tool=call.tool,
        directory=call.cwd,
        uid=call.uid if once else None,
        session=call.session,
        path=path,
        input_key=None if path is not None else input_key(call.value),
        max_level=call.danger.level,
        summary=summary,
        by=by,
        approval=approval,
        at=now,
    )
