"""How much of a budget is used, in words (contract, section 7). Compared in integers: 0.382 is 382/1000."""

from __future__ import annotations

UNLIMITED = "unlimited"
EXHAUSTED = "exhausted"

BOUNDS = ((1000, EXHAUSTED), (854, "critical"), (618, "cautious"), (382, "moderate"), (0, "abundant"))
"""Thousandths of the budget, from which on it is called so; highest first."""


def level(spent: int, budget: int | None) -> str:
    """The level of a budget in 10⁻¹² dollars; None is no budget. A budget of nothing is exhausted."""
    if budget is None:
        return UNLIMITED
    return next((name for bound, name in BOUNDS if spent * 1000 >= budget * bound), "abundant")


def used_ratio(spent: int, budget: int | None) -> float | None:
    """Spent of budget; 1 for a budget of nothing."""
    if budget is None:
        return None
    return spent / budget if budget else 1.0
