"""Verbs about money: cost, budget."""

from __future__ import annotations

from argparse import Namespace

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from services.cli import view
from services.cli.line import World, connected
from services.cli.out import say, say_json
from services.cli.sessions import _asked
from services.cli.text import one_line, span, usd


async def cost(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.read(t.LEDGER_TOTAL, t.LEDGER_SESSION)
    documents = sorted(found.raw(t.LEDGER_SESSION), key=lambda row: str(row.get("session")))
    rows = sorted(found.all(t.LEDGER_SESSION, m.LedgerSession), key=lambda row: row.session)
    total = found.one(t.LEDGER_TOTAL, m.LedgerTotal)
    if args.name is not None:
        documents = [row for row in documents if row.get("session") == args.name]
        rows = [row for row in rows if row.session == args.name]
        if not documents:
            raise RefusedError("unknown_session", f"no costs of a session {one_line(args.name)!r} are known")
    if total is None and not documents:
        raise RefusedError("unavailable", "the ledger has said nothing yet: see `pointsman health`")
    if world.json:
        whole = found.raw(t.LEDGER_TOTAL)
        say_json({"total": whole[0] if whole else None, "sessions": documents})
        return 0
    say(view.costs(total if args.name is None else None, rows))
    if any(row.notional for row in rows):
        say("* paid by a subscription: what it would have cost")
    for row in rows:
        if row.exhausted_at is not None:
            left = span((row.exhausted_at - world.now()).total_seconds())
            say(f"{one_line(row.session)}: at this rate its budget is spent in {left}.")
    return 0


async def budget(world: World, args: Namespace) -> int:
    command = m.SetBudget(budget_usd=args.usd)
    async with connected(world) as line:
        if args.node:
            result = await line.ask(t.LEDGER_BUDGET, command, period=args.name)
        else:
            result = await _asked(line, args.name, t.LEDGER_SESSION_BUDGET, command)
    if world.json:
        say_json(result)
    else:
        of = f"this node ({args.name})" if args.node else f"session {one_line(args.name)}"
        said = "has no budget any more" if args.usd is None else f"may spend {usd(args.usd)} in all"
        say(f"{of[0].upper()}{of[1:]} {said}.")
    return 0
