"""Carries out imports: reads the files in a thread, batch by batch, and hands them to the ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

import trio  # noqa: TID251  # this is part of the shell

from bus.effects import Effect
from services.ledger.files import below, lines
from services.ledger.importing import ENDED, Batch, Imports, Run, progress
from services.ledger.transcripts import BrokenLineError, Call, larger, read_line

LINES = 4000  # of a batch: some 50 ms of the loop's time
BYTES = 8 * 1024 * 1024
SAY_EVERY_S = 1.0


class Importer:
    """``take`` is `Witnessing.imported`."""

    def __init__(
        self,
        imports: Imports,
        *,
        take: Callable[[Run, Batch, datetime], tuple[Run, Sequence[Effect]]],
        act: Callable[[Sequence[Effect]], object],
        now: Callable[[], datetime],
        relaxed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._relaxed = relaxed
        self._imports = imports
        self._take = take
        self._act = act
        self._now = now
        self._wanted = trio.Event()

    def wake(self) -> None:
        """A run was begun."""
        self._wanted.set()

    async def run(self) -> None:
        while True:
            while self._imports.runs:
                await self._carry_out(self._imports.runs[0])
            self._wanted = trio.Event()
            await self._wanted.wait()

    async def _carry_out(self, run: Run) -> None:
        sizes = await trio.to_thread.run_sync(sizes_of, run.paths)
        remaining = left(run, list(sizes))
        whole = sum(sizes.values())
        behind = whole - sum(sizes[file] for file, _ in remaining)
        said = trio.current_time()
        for file, begin in remaining:
            start, end = begin, False
            while not end:
                batch = await trio.to_thread.run_sync(read_batch, file, start)
                run, effects = self._take(run, batch, self._now())
                with self._relaxed():  # after a power cut the run goes on from where the database stands
                    self._act(effects)
                start, end = batch.read_to, batch.end
                if trio.current_time() - said >= SAY_EVERY_S:
                    said = trio.current_time()
                    self._act([progress(run, behind + start, whole, self._now())])
            behind += sizes[file]
        self._act(self._imports.finish(run, self._now()))


def left(run: Run, files: Sequence[str]) -> list[tuple[str, int]]:
    """What a run has yet to read: files, and from where on."""
    if run.file not in files:
        return [(file, 0) for file in files]
    at = files.index(run.file)
    begun = [] if run.read_to == ENDED else [(run.file, run.read_to)]
    return begun + [(file, 0) for file in files[at + 1 :]]


def sizes_of(paths: Sequence[str]) -> dict[str, int]:
    """The files of an import, in order, with their sizes; what was named and is not there has size 0."""
    found: dict[str, int] = {}
    for path in below(list(paths)):
        try:
            found[str(path)] = path.stat().st_size
        except OSError:
            found[str(path)] = 0
    missing = {path: 0 for path in paths if not Path(path).exists()}
    return {**found, **missing}


def read_batch(file: str, start: int) -> Batch:
    """The next lines of a file."""
    calls: dict[str, tuple[Call, int]] = {}
    count = broken = 0
    read_to = start
    try:
        for line in lines(Path(file), start):
            read_to = line.end
            if line.data is None or line.data.strip():
                count += 1
                try:
                    call = None if line.data is None else read_line(line.data)
                except BrokenLineError:
                    broken += 1
                    call = None
                broken += line.data is None
                if call is not None:
                    _add(calls, call)
            if count >= LINES or read_to - start >= BYTES:
                return Batch(file, read_to, count, broken, calls)
    except OSError:
        return Batch(file, read_to, count, broken, calls, end=True, unreadable=True)
    return Batch(file, read_to, count, broken, calls, end=True)


def _add(calls: dict[str, tuple[Call, int]], call: Call) -> None:
    found = calls.get(call.key)
    if found is None:
        calls[call.key] = (call, 1)
    else:
        known, tellings = found
        best = call._replace(at=min(call.at, known.at)) if larger(call.use, known.use) else known
        calls[call.key] = (best, tellings + 1)
