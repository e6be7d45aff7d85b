"""From a fact on the bus to a report that can be counted."""

from __future__ import annotations

from bus import messages as m
from bus import topics as t
from bus.errors import PeerError
from services.ledger import money
from services.ledger.model import Report, Use

MAX_TOKENS = 10**12  # of one process: a thousand times the largest ever seen
MAX_MODELS = 100
MAX_NAME = 200


def read_report(uid: str, fact: m.Fact, data: m.CostReported) -> Report:
    """Raises `PeerError` for what cannot be: then ingest sets the fact aside, where a person can see it."""
    counts = [data.process, data.turn, data.cache_write_5m, data.cache_write_1h]
    for use in data.models.values():
        counts += [use.input, use.output, use.cache_read, use.cache_write]
        counts += [use.cache_write_5m or 0, use.cache_write_1h or 0]
    names = (*data.models, data.model or "")
    if any(not 0 <= count <= MAX_TOKENS for count in counts):
        raise PeerError("bad_request", f"a count is not between 0 and {MAX_TOKENS}")
    if len(data.models) > MAX_MODELS or any(len(n) > MAX_NAME for n in names):
        raise PeerError(
            "bad_request", f"more than {MAX_MODELS} models, or a name of more than {MAX_NAME} characters"
        )
    if any("\0" in name for name in names):
        raise PeerError("bad_request", "a model's name with a NUL in it")  # no database keeps that
    try:
        total = money.from_text(data.total_usd)
        models = {
            name: Use(
                money.from_text(u.cost_usd),
                u.input,
                u.output,
                u.cache_read,
                u.cache_write,
                u.cache_write_5m or 0,
                u.cache_write_1h or 0,
            )
            for name, u in data.models.items()
        }
    except ValueError as error:
        raise PeerError("bad_request", str(error)) from None
    # Where the agent tells the two kinds of cache writes by model, its turn's own figures say the same again.
    told = any(use.cache_write_1h is not None for use in data.models.values())
    return Report(
        uid=uid,
        session=data.session,
        process=data.process,
        turn=data.turn,
        baseline=data.baseline,
        at=fact.at.replace(microsecond=fact.at.microsecond // 1000 * 1000),  # as the store keeps it
        total=total,
        models=models,
        model=data.model or None,
        write_5m=0 if told else data.cache_write_5m,
        write_1h=0 if told else data.cache_write_1h,
        notional=data.notional,
        fact=fact.id,
    )


def uid_of(fact: m.Fact, session: str) -> str:
    """The session that a fact is about. Raises `PeerError`."""
    if not fact.uid:
        raise PeerError("bad_request", "a fact for the ledger needs the session's uid")
    if not t.PARAMETERS["session"].match(session):
        raise PeerError("bad_request", f"{session[:80]!r} is no session's name")
    return fact.uid
