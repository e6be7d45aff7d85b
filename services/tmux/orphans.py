"""What was left behind: agents and bridges that belong to no session of this home, and half-written files.

A process is ours only if all its marks agree: it has the uid of a session in its environment, and

- an agent writes into ``<home>/sessions/<uid>/out.<n>``, also when that directory has been removed since, and
  leads a session of its own (its keeper made it so);
- a bridge or launcher is that program, and was told that directory.

Anything else (a child that an agent left running, somebody who reads our files, the agents of another home)
is not touched, whatever its name or place. What is seen once may be on its way out, so it must be seen twice,
`ORPHAN_S` apart, as the same process. Directories and windows without a record are found by `core`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services._process.home import Home
from services._process.pids import PROC, Process, kill_if, started

ORPHAN_S = 3.0
EVERY_S = 180.0
HALF_WRITTEN_S = 600.0  # nobody takes that long to write a file of a few hundred bytes
MARK = b"POINTSMAN_SESSION_UID="
PROGRAMS = (b"services.bridge", b"services.tmux.launcher")
_OUT = re.compile(rb"/([0-9A-Z]{26})/out\.(\d+)(?: \(deleted\))?\Z")
_HALF = re.compile(r"\.(.+)\.[a-z0-9_]{8}\Z")  # as tempfile names them (`Home`)


@dataclass(frozen=True, slots=True)
class Orphan:
    """``what``: agent or bridge."""

    process: Process
    uid: str
    what: str


class Orphans:
    """Looks for them. ``records``: uid → number of the agent process that is meant to run."""

    def __init__(self, home: Home) -> None:
        self._sessions = os.fsencode(home.sessions.resolve())
        self._home = home
        self._seen: dict[Orphan, float] = {}

    def look(self, records: Mapping[str, int], now: float) -> list[Orphan]:
        """Those that were there `ORPHAN_S` ago already. ``now``: monotonic seconds."""
        found = list(self._find(records))
        self._seen = {orphan: self._seen.get(orphan, now) for orphan in found}
        return [orphan for orphan in found if now - self._seen[orphan] >= ORPHAN_S]

    @property
    def suspects(self) -> bool:
        """Whether it is worth looking again soon."""
        return bool(self._seen)

    def _find(self, records: Mapping[str, int]) -> Iterator[Orphan]:
        for path in PROC.iterdir():
            if path.name.isdecimal():
                found = self._ours(int(path.name), records)
                if found is not None:
                    yield found

    def _ours(self, pid: int, records: Mapping[str, int]) -> Orphan | None:
        start = started(pid)
        if start is None:
            return None
        try:
            environ = (PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or another user's
            return None
        uid = next((word[len(MARK) :] for word in environ if word.startswith(MARK)), b"")
        if not uid:
            return None
        number = self._agent_of(pid, uid)
        if number is not None:
            wanted = records.get(uid.decode("ascii", "replace"))
            gone = wanted is None or number < wanted
            return Orphan((pid, start), uid.decode(), "agent") if gone else None
        if uid.decode("ascii", "replace") not in records and self._is_bridge(pid, uid):
            return Orphan((pid, start), uid.decode(), "bridge")
        return None

    def _agent_of(self, pid: int, uid: bytes) -> int | None:
        """The number of the agent process, if it is one."""
        with suppress(OSError):
            out = os.fsencode((PROC / str(pid) / "fd/1").readlink())
            found = _OUT.search(out)
            if found and found[1] == uid and out[: found.start()] == self._sessions and os.getsid(pid) == pid:
                return int(found[2])
        return None

    def _is_bridge(self, pid: int, uid: bytes) -> bool:
        with suppress(OSError):
            words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
            folder = self._sessions + b"/" + uid
            return any(p in words for p in PROGRAMS) and any(
                os.fsencode(os.path.realpath(word)) == folder for word in words if word.startswith(b"/")
            )
        return False

    def end(self, orphan: Orphan) -> bool:
        """End it, with the process group that its keeper gave it. Returns whether it was there."""
        pid, start = orphan.process

        def is_it(pid: int) -> bool:
            if started(pid) != start:
                return False
            if orphan.what == "agent" and os.getpgid(pid) == pid:
                os.killpg(pid, signal.SIGKILL)  # held by our handle, it cannot be another's group
            return True

        return kill_if(pid, is_it)

    def half_written(self, now: float) -> list[Path]:
        """Remove files that were begun and never finished. ``now``: Unix seconds. Returns them."""
        removed = []
        home = self._home
        places = [home.path, home.run, *(p for p in home.secrets.rglob("*") if p.is_dir()), home.secrets]
        for path in (file for place in places for file in place.iterdir()):
            found = _HALF.match(path.name)
            if found is None or not path.with_name(found[1]).exists() or path.is_symlink():
                continue
            with suppress(OSError):
                if path.is_file() and now - path.stat().st_mtime >= HALF_WRITTEN_S:
                    path.unlink()
                    removed.append(path)
        return removed
