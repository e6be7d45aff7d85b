"""Reads the transcripts of sessions whose costs are open, and hands what is new to the witness.

Files are looked at, not watched for: a session is due for some seconds after each of its reports, and the
others are left alone. Reading happens in a thread: a long conversation's transcript has a hundred megabytes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import trio  # noqa: TID251  # this is part of the shell

from bus.effects import Effect
from services.ledger.columns import to_ms
from services.ledger.evidence import Followed, Read
from services.ledger.files import Place, lines, start_of, stated, transcript_files
from services.ledger.transcripts import BrokenLineError, Call, read_line
from services.ledger.witness import Witness

READ_EVERY_S = 1.0


class Job(NamedTuple):
    """A file, where to go on, and where that will lead. ``since``: what is from before (Unix milliseconds) is
    another's; 0 where the session has read in it before, because then all that is new was written for it.
    """

    path: Path
    start: int
    place: Place
    since: int


class Watch:
    """``broken`` counts lines that could not be read; ``refused`` is told of a stated transcript that is not
    the conversation's own, once: (uid, path). Its own is looked for all the same.
    """

    def __init__(
        self,
        witness: Witness,
        *,
        read: Callable[[str, Sequence[Read], datetime], Sequence[Effect]],
        root: Path,
        place: Callable[[str], tuple[Place, str] | None],
        act: Callable[[Sequence[Effect]], object],
        now: Callable[[], datetime],
        broken: Callable[[int], None],
        refused: Callable[[str, str], None],
    ) -> None:
        self._witness = witness
        self._apply = read
        self.root = root
        self._place = place
        self._act = act
        self._now = now
        self._broken = broken
        self._refused = refused
        self._told: set[str] = set()  # refused paths

    async def run(self) -> None:
        while True:
            await trio.sleep(READ_EVERY_S)
            for uid in self._witness.due():
                await self._read(uid)

    async def _read(self, uid: str) -> None:
        found = []
        for followed, jobs in self._open(uid):
            read = await trio.to_thread.run_sync(read_files, jobs, followed.conversation)
            found.append(self._counted(followed, *read))
        self._act(self._apply(uid, found, self._now()))

    def read_now(self, uid: str) -> None:
        """The same, at once."""
        found = [self._counted(f, *read_files(jobs, f.conversation)) for f, jobs in self._open(uid)]
        self._act(self._apply(uid, found, self._now()))

    def _counted(
        self, followed: Followed, calls: list[Call], places: list[tuple[str, Place]], broken: int
    ) -> Read:
        self._broken(broken)
        return followed.conversation, calls, places

    def _open(self, uid: str) -> list[tuple[Followed, list[Job]]]:
        found = [(followed, self._jobs(followed)) for followed in self._witness.conversations(uid)]
        return [(followed, jobs) for followed, jobs in found if jobs]

    def _jobs(self, followed: Followed) -> list[Job]:
        jobs = []
        said = followed.path
        if said and said not in self._told and stated(self.root, said, followed.conversation) is None:
            self._told.add(said)
            self._refused(followed.uid, said)
        for path in transcript_files(self.root, followed.cwd, followed.conversation, followed.path):
            known, reader = self._place(str(path)) or (None, "")
            begin = start_of(path, known)
            if begin is not None:
                goes_on = reader == followed.uid and begin[0] > 0
                jobs.append(Job(path, *begin, 0 if goes_on else to_ms(followed.since)))
        return jobs


def read_files(jobs: Sequence[Job], conversation: str) -> tuple[list[Call], list[tuple[str, Place]], int]:
    """What is new in the files of a conversation, and how far each is read: to its last whole line. Calls of
    one file come in its order, those of several as their times tell.
    """
    found: list[list[Call]] = []
    places: list[tuple[str, Place]] = []
    broken = 0
    for path, start, place, since in jobs:
        end = start
        calls: list[Call] = []
        found.append(calls)
        own = path.stem == conversation or path.parent.name == "subagents"
        try:
            for line in lines(path, start):
                if not line.whole:
                    break
                end = line.end
                try:
                    call = None if line.data is None else read_line(line.data)
                except BrokenLineError:
                    broken += 1
                    continue
                broken += line.data is None
                if call is not None and call.at >= since and (own or call.conversation == conversation):
                    calls.append(call)
        except OSError:
            continue  # it vanished: next time
        if end != start or start == 0:
            places.append((str(path), Place(place.inode, end)))
    return list(heapq.merge(*found, key=lambda call: call.at)), places, broken
