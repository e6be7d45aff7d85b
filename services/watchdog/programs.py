"""What supervisord says of the programs that it runs, and what that means for people. Pure."""

from __future__ import annotations

import msgspec

MISTAKE = 2  # the exit code
STATES = {
    "FATAL": "supervisord could not start it, and gave it up",
    "BACKOFF": "it ends as soon as it is started, and is tried again after a pause",
}
EXITS = {
    MISTAKE: "a mistake in the configuration; it is started again when that file is changed",
    3: "it runs already for this home; it is not started again",
}


class Program(msgspec.Struct, frozen=True):
    """In supervisord's words; ``exitstatus`` is that of its last process."""

    name: str
    statename: str
    pid: int
    exitstatus: int


class Figures(msgspec.Struct, frozen=True):
    """What supervision counts (`services/supervision`)."""

    events: dict[str, int] = {}
    restarts: int = 0
    refused: int = 0
    unanswered: int = 0
    faults: int = 0
    lines_lost: int = 0


class Said(msgspec.Struct, frozen=True):
    """One line of supervisord's; the shapes stand in `services/supervision`."""

    processes: tuple[Program, ...] = ()
    died: str | None = None
    restarted: str | None = None
    started: str | None = None
    problem: str | None = None
    reason: str | None = None
    figures: Figures | None = None


def mistaken(program: Program) -> bool:
    """Has it ended over a mistake in the configuration, and is left alone?"""
    return (program.statename, program.exitstatus) == ("EXITED", MISTAKE)


def cause(program: Program | None) -> str | None:
    """Why it does not run; None for one that runs, or may soon."""
    if program is None:
        return None
    why = EXITS.get(program.exitstatus) if program.statename == "EXITED" else STATES.get(program.statename)
    return why and f"{why}: see the terminal, or `pointsman logs {program.name}`"
