"""What the ledger needs to find a second witness of a session's cost: the agent's own transcript.

Claude Code writes each conversation into a file of its own. Ingest tells which conversations belong to a
session (`follow`), and, when an agent process is gone whose last answers no result has covered, which
messages those were (`lost`): the ledger books them from the transcript, as an estimate. Ingest itself reads
no transcript.

The frames say which messages came after the last result, in order and without a clock: ``heard``.
"""

from __future__ import annotations

from bus import messages as m
from services.ingest import running, wire
from services.ingest.step import Step, short_hash

MAX_HEARD = 1000  # of one turn; the ledger knows those after them by their place in the transcript


def follow(step: Step, conversation: str | None, path: str | None = None, *, booked: bool = False) -> None:
    """The session speaks in this conversation now. ``path`` where the agent says where its transcript is;
    ``booked`` for an agent that reports no cost: all of it is booked from there.
    """
    r = step.r
    if conversation is None or len(conversation) > wire.MAX_ID_CHARS or conversation == r.followed:
        return
    r.followed = conversation
    step.durable = True
    data = m.ConversationFollowed(
        session=r.session,
        conversation=conversation,
        cwd=r.cwd,
        path=path,
        since=r.started_at,
        booked=booked,
    )
    step.post("ledger", "conversation", "conv-" + short_hash(r.uid, conversation), data)


def heard(step: Step, message_id: str) -> None:
    """The agent said something that it has not yet reported the cost of."""
    r = step.r
    if not 0 < len(message_id) <= wire.MAX_ID_CHARS:
        return
    if r.uncovered is None:
        r.uncovered, r.heard = message_id, [message_id]
    elif 0 < len(r.heard) < MAX_HEARD and message_id not in r.heard:
        r.heard.append(message_id)
    else:
        return
    step.durable = True


def covered(step: Step) -> None:
    """A result: its total counts everything before it."""
    step.r.uncovered, step.r.heard = None, []


def lost(step: Step) -> None:
    """The process is gone: what it has not reported, it never will."""
    r = step.r
    if r.uncovered is None:
        return
    data = m.CostUnreported(
        session=r.session,
        process=r.process,
        turn=r.results,
        conversation=r.followed or "",
        first=r.uncovered,
        messages=r.heard,
        whole=r.drained and 0 < len(r.heard) < MAX_HEARD,
        usage=running.streamed(r.running),
        notional=r.notional,
    )
    step.post("ledger", "unreported", "lost-" + short_hash(r.uid, r.process, r.uncovered), data)
    r.uncovered, r.heard = None, []
    running.over(step)
    step.durable = True
