"""What a call of the model in a transcript is booked as. Pure."""

from __future__ import annotations

from datetime import datetime

from services.ledger.evidence import Lost, Message
from services.ledger.model import TRANSCRIPT, Posting, Use
from services.ledger.prices import Prices
from services.ledger.transcripts import Call


def message_of(call: Call, prices: Prices, uid: str, at: datetime, *, booked: bool) -> Message:
    """With its price: the table's, else the line's own."""
    cost = prices.call(call.model, at, call.use, call.searches, fast=call.fast)
    if cost is None:
        cost = call.said
    use = call.use._replace(cost=cost or 0)
    return Message(call.key, uid, at, call.model, use, unpriced=cost is None, booked=booked)


def lost_posting(
    lost: Lost, row: str, model: str, at: datetime, use: Use, priced: int | None = None
) -> Posting:
    return Posting(
        id=row,
        uid=lost.uid,
        process=lost.process,
        turn=lost.turn + 1,
        model=model,
        at=at,
        use=use,
        turns=0,
        share=0,
        source=TRANSCRIPT,
        notional=lost.notional,
        fact=lost.fact,
        estimated=True,
        priced=priced,
    )


def booked_posting(message: Message, notional: bool) -> Posting:
    """The row of a message whose agent reports nothing."""
    return posting_of(message, TRANSCRIPT, notional=notional, estimated=True)


def posting_of(message: Message, source: str, *, notional: bool, estimated: bool) -> Posting:
    """The row of a message, or of what a later telling adds to it."""
    use = message.grown()
    later = "" if message.before is None else "/+" + ".".join(str(count) for count in message.use[1:])
    return Posting(
        id=f"{source}/{message.key}{later}",
        uid=message.uid,
        process=0,
        turn=0,
        model=message.model,
        at=message.at,
        use=use,
        turns=int(message.before is None),
        share=int(message.before is None),
        source=source,
        notional=notional,
        fact="",
        estimated=estimated,
        priced=None if message.unpriced else use.cost,
    )
