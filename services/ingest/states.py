"""The one table of legal status transitions of a session (contract, section 4).

Theory of operation. A status is never set by hand: `services.ingest.step.derive` reads it off the record
(is the process alive, can we talk to it, is a question open, does a turn run), and `change` holds the move
against this table. So a status cannot contradict what is known, and what cannot happen is an error of ours
that the tests find: they walk every pair, and drive the core with random histories.

- What an agent does while we talk to it (`ready`, `working`, `waiting_approval`, `waiting_input`,
  `compacting`) may change into each other freely, because a frame may say several things at once and a
  journal may be read in large pieces; except that nothing comes back to `ready`: that is "no turn since start
  or waking". `compacting` may: `/compact` is possible before the first turn.
- `starting` and `waking` lead into any of those: the journal may already hold a turn when we first read it.
- `disconnected`: the agent is out of reach (its connection is gone, or it died and is being resumed) and is
  waited for; it comes back as whatever it is then.
- `hibernating` → `hibernated` → `waking` (`services.ingest.rest`): an idle session, by request; any that has
  an agent, when memory is so short that the watchdog evicts it. A hibernation that cannot be carried out goes
  back to where it came from, a waking that is not admitted to `hibernated`.
- `ended` and `failed` are final: the name is free, and the uid is never used again.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class Status(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    WORKING = "working"
    WAITING_APPROVAL = "waiting_approval"
    WAITING_INPUT = "waiting_input"
    COMPACTING = "compacting"
    DISCONNECTED = "disconnected"
    HIBERNATING = "hibernating"
    HIBERNATED = "hibernated"
    WAKING = "waking"
    ENDED = "ended"
    FAILED = "failed"


S = Status
FINAL = frozenset({S.ENDED, S.FAILED})
AWAKE = frozenset({S.READY, S.WORKING, S.WAITING_APPROVAL, S.WAITING_INPUT, S.COMPACTING})
LIVING = frozenset(S) - FINAL

_TURN = frozenset({S.WORKING, S.WAITING_APPROVAL, S.WAITING_INPUT, S.COMPACTING})
_GONE = frozenset({S.DISCONNECTED}) | FINAL
_AWAY = _GONE | {S.HIBERNATING}

LEGAL: Mapping[Status, frozenset[Status]] = {
    S.STARTING: AWAKE | _AWAY,
    S.READY: _TURN | _AWAY,
    S.WORKING: (_TURN - {S.WORKING}) | _AWAY,
    S.WAITING_APPROVAL: (_TURN - {S.WAITING_APPROVAL}) | _AWAY,
    S.WAITING_INPUT: (_TURN - {S.WAITING_INPUT}) | _AWAY,
    S.COMPACTING: (AWAKE - {S.COMPACTING}) | _AWAY,
    S.DISCONNECTED: AWAKE | {S.HIBERNATING} | FINAL,
    S.HIBERNATING: AWAKE | {S.HIBERNATED} | _GONE,
    S.HIBERNATED: frozenset({S.WAKING}) | FINAL,
    S.WAKING: AWAKE | {S.HIBERNATED} | _AWAY,
    S.ENDED: frozenset(),
    S.FAILED: frozenset(),
}


class IllegalTransitionError(Exception):
    """Our fault: the record says what the table forbids. Never caught; the tests look for it."""


def change(old: Status, new: Status) -> bool:
    """Whether the status moves. Raises `IllegalTransitionError` for a move that is not in the table."""
    if old is new:
        return False
    if new not in LEGAL[old]:
        raise IllegalTransitionError(f"{old} → {new}")
    return True
