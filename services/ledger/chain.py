"""From an agent's running totals to what was spent between them.

Theory of operation. The reports of one agent process form a chain, ordered by `Report.place`. What a turn
cost is the step from the report before it:

- from nothing, if it is the first and no baseline came before it;
- from a baseline, if that is what came before: a resumed agent may carry an old total over, and the baseline
  says so. A baseline itself costs nothing;
- a total that is lower than the one before can only mean that the agent began anew (``/clear``): totals of
  one conversation never fall. All of it is new then. (Ingest says a baseline of nothing at ``/clear``; this
  is for an agent that resets without a word.) A reset that has already grown past the old total cannot be
  seen.

The total is what counts. The models' own steps are booked as they are, and what they leave of the total's
step goes to the turn's model, so that the rows of a turn always add up to the agent's total. If the start is
known only as a sum (a conversation that others began), the models' steps cannot be known: the turn's model
gets the cost, and tokens are counted from the next turn on.

The sum over a chain depends on its reports alone, not on the order in which they came: a report that comes
late splits a step in two, and the difference to what was booked is booked as corrections of the later turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.ledger.model import AGENT, NOTHING, UNATTRIBUTED, Near, Posting, Report, Use


@dataclass(frozen=True, slots=True)
class Step:
    """What one report adds. ``model`` is the turn's; ``rest`` the part of its cost that was not its own
    figure.
    """

    uses: Mapping[str, Use]
    model: str
    reset: bool
    rest: int


def step(before: Report | None, report: Report) -> Step:
    """What ``report`` adds to the one before it in its process."""
    if report.baseline:
        return Step({}, UNATTRIBUTED, False, 0)
    base, known = (0, {}) if before is None else (before.total, before.models)
    reset = report.total < base
    if reset:
        base, known = 0, {}
    uses: dict[str, Use] = {}
    if not base or known:
        for name, running in report.models.items():
            grown = _grown(running, known.get(name, NOTHING))
            if grown != NOTHING:
                uses[name] = grown
    rest = report.total - base - sum(use.cost for use in uses.values())
    model = _model_of(report, uses)
    own = Use(cost=rest, cache_write_5m=report.write_5m, cache_write_1h=report.write_1h)
    uses[model] = uses.get(model, NOTHING).plus(own)
    return Step(uses, model, reset, rest)


def _grown(running: Use, base: Use) -> Use:
    """A model's step. Tokens never fall; a cost that does is balanced by the rest."""
    diff = running.minus(base)
    return Use(diff.cost, *(max(0, tokens) for tokens in diff[1:]))


def _model_of(report: Report, uses: Mapping[str, Use]) -> str:
    """The turn's model: as the report says, unless another one alone was used (an alias of its name)."""
    if report.model in uses or len(uses) != 1:
        return report.model or UNATTRIBUTED
    return next(iter(uses))


def postings(report: Report, near: Near) -> tuple[list[Posting], Step]:
    """The rows that a new report leads to, and its step."""
    made = step(near.before, report)
    rows = []
    if not report.baseline:
        for model, use in made.uses.items():
            row = f"{_turn(report)}/={model}"
            rows.append(_row(report, model, use, row, report.fact, turns=int(model == made.model)))
    if near.after is not None:
        rows += _corrections(near.before, report, near.after)
    return rows, made


def _corrections(before: Report | None, late: Report, after: Report) -> list[Posting]:
    """What the turn after a late report was booked too high or too low, model by model."""
    was, now = step(before, after).uses, step(late, after).uses
    rows = []
    for model in {**was, **now}:
        diff = now.get(model, NOTHING).minus(was.get(model, NOTHING))
        if diff != NOTHING:
            row = f"{_turn(after)}/+{late.fact}/{model}"
            rows.append(_row(after, model, diff, row, late.fact, share=0))
    return rows


def _turn(report: Report) -> str:
    return f"{report.uid}/{report.process}/{report.turn}"


def _row(
    report: Report, model: str, use: Use, row: str, fact: str, *, turns: int = 0, share: int = 1
) -> Posting:
    return Posting(
        id=row,
        uid=report.uid,
        process=report.process,
        turn=report.turn,
        model=model,
        at=report.at,
        use=use,
        turns=turns,
        share=share,
        source=AGENT,
        notional=report.notional,
        fact=fact,
    )
