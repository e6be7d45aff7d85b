"""Names for the shell's tab key. Whatever goes wrong, nothing is offered and nothing is said."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import trio

from bus import messages as m
from bus import topics as t
from services._process.config import TO_THE_BUS, load_config
from services._process.home import Home
from services.cli import view
from services.cli.line import Line, World, connect_user, connected

PATIENCE_S = 1.0  # who presses tab waits no longer


def sessions(**_: object) -> list[str]:
    """Names of living sessions."""
    return _ask(_sessions)


def approvals(**_: object) -> list[str]:
    """Ids of what is pending."""
    return _ask(_approvals)


async def _sessions(line: Line) -> list[str]:
    return [entry.session for entry in await line.sessions() if entry.status not in view.GONE]


async def _approvals(line: Line) -> list[str]:
    found = await line.read(
        t.APPROVALS_PENDING, complete=lambda seen: bool(seen.rows(t.APPROVALS_PENDING)) or None
    )
    pending = found.one(t.APPROVALS_PENDING, m.PendingApprovals)
    return [item.id for item in pending.items] if pending else []


def _ask(question: Callable[[Line], Awaitable[list[str]]]) -> list[str]:
    async def main() -> list[str]:
        with trio.move_on_after(PATIENCE_S):
            config = load_config(os.environ, needed=TO_THE_BUS)
            world = World(config, Home(config.node.home), dict(os.environ), connect_user)
            async with connected(world) as line:
                return await question(line)
        return []

    try:
        return trio.run(main)
    except Exception:  # noqa: BLE001  # whatever it is, the user is typing and must not be disturbed
        return []
