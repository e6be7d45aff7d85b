"""What may happen to an approval, and where that may lead. The theory stands in `services.approvals.core`."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from services.approvals.model import State


class Happening(enum.StrEnum):
    """What may happen to an approval that exists."""

    QUESTION = "question"  # the same question comes again
    APPROVE = "approve"  # a valid yes
    DENY = "deny"  # a valid no
    TIMER = "timer"  # expires_at is reached
    RULE = "rule"  # a new rule forbids it
    ALIKE = "alike"  # a yes to the very same call was remembered
    WITHDRAWN = "withdrawn"
    APPLIED = "applied"


_FINAL: Mapping[Happening, frozenset[State]] = {happening: frozenset() for happening in Happening}
TABLE: Mapping[State, Mapping[Happening, frozenset[State]]] = {
    State.PENDING: {
        Happening.QUESTION: frozenset(),
        Happening.APPROVE: frozenset({State.APPROVED}),
        Happening.DENY: frozenset({State.DENIED}),
        Happening.TIMER: frozenset({State.EXPIRED}),
        Happening.RULE: frozenset({State.DENIED}),
        Happening.ALIKE: frozenset({State.APPROVED}),
        Happening.WITHDRAWN: frozenset({State.CANCELLED}),
        Happening.APPLIED: frozenset(),
    },
    State.APPROVED: _FINAL,
    State.DENIED: _FINAL,
    State.EXPIRED: _FINAL,
    State.CANCELLED: _FINAL,
}
"""State → happening → the states that it may lead to; where none stands, the approval stays as it is."""
