"""Ask the watchdog whether an agent may be started: while the breaker is open, none may.

A watchdog that does not answer refuses nobody: better an agent too many than a person who cannot work
because of whoever was to help.
"""

from __future__ import annotations

from typing import Literal

from bus import messages as m
from bus import topics as t
from bus.base import BusBase
from bus.errors import BusDownError, RefusedError
from bus.requests import Requester

WATCHDOG = "watchdog"
ANSWER_S = 5.0  # contract, section 3: without an answer in this time it is admitted


async def admission(
    bus: BusBase, service: str, session: str, what: Literal["create", "wake"], request_id: str
) -> RefusedError | None:
    """The watchdog's refusal (``breaker_open``, with ``retry_at`` in its details), or None: go on."""
    asked = m.Admit(id=request_id, session=session, what=what)
    try:
        await Requester(bus, by=f"service-{service}", via="bus").ask(t.ADMIT, asked, timeout_s=ANSWER_S)
    except RefusedError as error:
        return error if error.code == "breaker_open" else None
    except BusDownError:
        return None
    return None
