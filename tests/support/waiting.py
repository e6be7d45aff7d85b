"""Wait for a condition: what a test does instead of sleeping and hoping."""

from __future__ import annotations

from collections.abc import Callable

import trio

POLL_S = 0.005


async def eventually(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Return once the condition holds. Raises trio.TooSlowError after the time."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110  # the condition may be about another process
            await trio.sleep(POLL_S)
