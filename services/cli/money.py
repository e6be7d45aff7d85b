"""The verb about what was spent; `budget` has the one about what may be."""

from __future__ import annotations

from argparse import Namespace

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from services.cli import budget, costs, view
from services.cli.line import UsageError, World, connected
from services.cli.out import say, say_json
from services.cli.text import one_line


async def cost(world: World, args: Namespace) -> int:
    if args.name == "import" and args.paths:
        return await costs.read_in(world, args)
    if args.paths:
        raise UsageError("one NAME, or `import` and what to read")
    if args.name == "check":
        return await costs.check(world, args)
    if args.rebuild:
        raise UsageError("--rebuild belongs to `pointsman cost check`")
    if args.by or args.since or args.until or args.csv:
        if args.name is not None:
            raise UsageError("--by, --since, --until and --csv are of all sessions: leave NAME out")
        return await costs.report(world, args)
    async with connected(world) as line:
        found = await line.read(t.LEDGER_TOTAL, t.LEDGER_SESSION)
    documents = sorted(found.raw(t.LEDGER_SESSION), key=lambda row: str(row.get("session")))
    rows = sorted(found.all(t.LEDGER_SESSION, m.LedgerSession), key=lambda row: row.session)
    total = found.one(t.LEDGER_TOTAL, m.LedgerTotal)
    if args.name is not None:
        documents = [row for row in documents if row.get("session") == args.name]
        rows = [row for row in rows if row.session == args.name]
        if not documents:
            what = f"no costs of a session {one_line(args.name)!r} are known; see `pointsman cost`"
            if args.name == "import":
                what += ", or say what to read: `pointsman cost import PATH…`"
            raise RefusedError("unknown_session", what)
    if total is None and not documents:
        raise RefusedError("unavailable", "the ledger has said nothing yet: see `pointsman health`")
    if world.json:
        whole = found.raw(t.LEDGER_TOTAL)
        say_json({"total": whole[0] if whole else None, "sessions": documents})
        return 0
    say(view.costs(total if args.name is None else None, rows))
    if any(row.running_usd for row in rows):
        say("+ in the turn that runs now, as far as it is known")
    if any(row.notional for row in rows):
        say("* paid by a subscription: what it would have cost")
    for text in budget.lines(total if args.name is None else None, rows, world.now()):
        say(text)
    for text in costs.doubts(rows):
        say(text)
    return 0
