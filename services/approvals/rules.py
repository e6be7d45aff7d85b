"""What needs no person, and how long a person has: the configuration's part of a decision.

First version: the lists of tools that are approved by themselves. `Rules` is the seam at which ordered rules
(deny, ask, allow) come in: they answer with the same `Verdict`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from bus.messages import Danger


@dataclass(frozen=True, slots=True)
class Verdict:
    """``rule`` names what decided; with ``ask`` a person is."""

    answer: Literal["allow", "ask", "deny"]
    rule: str = ""
    reason: str = ""
    required: int = 1  # different approvers that a yes takes


@dataclass(frozen=True, slots=True)
class Rules:
    """``timeout_for(kind, level)`` is how many seconds a person has; None: as long as it takes."""

    auto_approve: Collection[str]
    timeout_for: Callable[[str, str], float | None]

    def judge(self, kind: str, tool: str, danger: Danger, session_auto_approve: Collection[str]) -> Verdict:
        """The lists apply to tools alone, and only at level ``low``."""
        if kind == "tool" and danger.level == "low":
            if tool in self.auto_approve:
                return Verdict("allow", "approvals.auto_approve", f"{tool} is on the configuration's list")
            if tool in session_auto_approve:
                return Verdict("allow", "session.auto_approve", f"{tool} is on this session's list")
        return Verdict("ask")
