"""What "exactly once" does not hold for: each kind is told of in docs/reliability.md, and counted here."""

from __future__ import annotations

from dataclasses import dataclass

from bus.effects import Do

KINDS = (
    "answer_unread",  # decided, and the agent was killed or interrupted before it had read that
    "callback_lost",  # of an sdk-url agent, with its connection
    "call_unjudged",  # of a followed session: it went on before the gate had judged its tool call
    "prompt_dropped",  # the agent said nothing about it
    "prompt_retyped",  # into a screen, after a crash of ours: it may have been there already
)


@dataclass(frozen=True, slots=True)
class Excepted(Do):
    """One of `KINDS` has happened."""

    kind: str
