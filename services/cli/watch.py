"""The verb watch: events as they happen, until Ctrl-C."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import msgspec
from rich.text import Text

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Connected, Received
from bus.errors import PeerError
from services.cli import view
from services.cli.line import Line, World, connected
from services.cli.out import say, say_json
from services.cli.sessions import _known
from services.cli.text import named, one_line


async def watch(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        if args.name is not None:
            await _known(line, args.name)
        values = {} if args.name is None else {"session": args.name}
        line.bus.subscribe(t.SESSION_EVENT, **values)
        if not world.json:
            line.bus.subscribe(t.APPROVAL_REQUEST)
            line.bus.subscribe(t.APPROVAL_OUTCOME)
            say(Text("Watching; Ctrl-C ends.", style="dim"))
        await _follow(world, line, args)
    return 0


async def _follow(world: World, line: Line, args: Namespace) -> None:
    shown, gone = 0, False
    while args.count is None or shown < args.count:
        message = await line.bus.receive()
        if isinstance(message, Connected):
            if gone and not world.json:
                say(Text("Connected again.", style="dim"))
            gone = True  # from the second one on
            continue
        if message.row is t.SESSION_EVENT:
            document = _document(message)
            if document is None:
                continue
            if world.json:
                say_json(document, indent=None)
            else:
                text = view.event(document, name=args.name is None)
                if text is None:
                    continue
                say(text)
            shown += 1
        elif not world.json:
            _decisions(message, args.name)


def _document(message: Received) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(message.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _decisions(message: Received, session: str | None) -> None:
    """What waits for a decision, and what was decided."""
    try:
        if message.row is t.APPROVAL_REQUEST and message.payload:
            request = codec.decode(message.row, message.payload, m.ApprovalRequest)
            if session in {None, request.session}:
                verb = "answer" if request.kind == "question" else "approve"
                what = named(request.tool, request.summary, 200)
                text = Text(f"? {one_line(request.session)} waits: {what}", style="bold yellow")
                say(text.append(f"  → pointsman {verb} {request.id[: view.SHORT_ID]}", style="dim"))
        elif message.row is t.APPROVAL_OUTCOME:
            outcome = codec.decode(message.row, message.payload, m.ApprovalOutcome)
            if session in {None, outcome.session} and outcome.applied is None:
                said = f"= {outcome.decision} by {outcome.by} ({outcome.via})"
                say(Text(f"{one_line(outcome.session)} {one_line(said)}", style="yellow"))
    except PeerError:
        return
