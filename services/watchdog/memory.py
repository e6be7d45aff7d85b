"""How much memory each service and each agent really uses, from ``/proc`` (proc(5)).

An agent and everything that it starts carry ``POINTSMAN_SESSION_UID`` in their environment, and so do its
bridge and keeper: so a process that was given to init belongs to its session all the same. One that clears
its environment belongs to whom its parent belongs to, and goes on doing so once it was seen. A service's
processes are those below its pid.

The figure is PSS: what several processes share is counted once, in shares. It costs a walk over page tables,
so it is asked of our own processes alone, and of one whose RSS has not moved only now and then; where the
kernel gives none (``smaps_rollup`` is from 4.14, and may be forbidden) it is RSS. Of everybody else one small
file is read.

What a look at 200 processes costs stands in docs/benchmarks.md; it holds up nobody but the watchdog itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from services._process.pids import Process
from services.watchdog.fleet import Usage

MARK = b"POINTSMAN_SESSION_UID="
FRESH_LOOKS = 10  # an idle process is asked again after 20 s, because others may have left what it shares
SAME_BYTES = 1 << 20
YOUNG_SAMPLES = 5  # a process may still become another program (exec) that has the mark
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
UNLIMITED = 1 << 60  # what cgroup v1 says for "no limit" is near 2**63


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: by uid of the session, by name of the service. ``processes``: how many there are in all."""

    sessions: Mapping[str, Usage]
    services: Mapping[str, int]
    processes: int


@dataclass(slots=True)
class _Known:
    """What is remembered of a process from look to look."""

    owner: str | None = None  # uid
    looks: int = 0
    ticks: int = 0  # of CPU, at the last look
    agent: bool | None = None  # is it the session's agent itself?
    pss: int = 0  # bytes, as asked last: when its RSS was
    rss: int = 0
    age: int = 0  # looks since then


@dataclass(slots=True)
class _Stat:
    ppid: int
    start: int
    ticks: int
    rss_bytes: int


class Sampler:
    """Looks at the machine. ``sessions`` is the directory of the sessions: agents write into files there."""

    def __init__(self, sessions: Path, proc: Path = Path("/proc")) -> None:
        self._sessions = os.fsencode(sessions)
        self._proc = str(proc)
        self._known: dict[Process, _Known] = {}
        self._last = 0.0

    def sample(self, services: Mapping[int, str], now: float) -> Sample:
        """Look once. ``services``: pid → name; ``now``: monotonic seconds."""
        stats: dict[int, _Stat] = {}
        for name in os.listdir(self._proc):  # noqa: PTH208  # strings, and 200 of them each time
            if name.isdecimal():
                stat = self._stat(name)
                if stat is not None:
                    stats[int(name)] = stat
        known = {(pid, stat.start): self._look(pid, stat) for pid, stat in stats.items()}
        elapsed, self._last = now - self._last if self._last else 0.0, now
        before, self._known = self._known, known
        owners = self._owners(stats)
        members: dict[str, list[int]] = {}
        used: dict[str, int] = dict.fromkeys(services.values(), 0)
        for pid in stats:
            uid = owners.get(pid)
            if uid is not None:
                members.setdefault(uid, []).append(pid)
            else:
                service = _above(pid, stats, services)
                if service is not None:
                    used[service] += self._memory(pid, stats[pid])
        sessions = {uid: self._usage(uid, pids, stats, before, elapsed) for uid, pids in members.items()}
        for pid, stat in stats.items():
            known[pid, stat.start].ticks = stat.ticks
        return Sample(sessions, {name: size for name, size in used.items() if size}, len(stats))

    def _look(self, pid: int, stat: _Stat) -> _Known:
        known = self._known.get((pid, stat.start)) or _Known(ticks=-1)
        if known.owner is None and known.looks < YOUNG_SAMPLES:
            known.looks += 1
            known.owner = self._mark(pid)
        return known

    def _owners(self, stats: Mapping[int, _Stat]) -> dict[int, str]:
        """pid → uid of its session, also by descent."""
        owners: dict[int, str] = {}
        for pid in stats:
            way: list[int] = []
            at, found = pid, None
            while at in stats and at not in way:
                found = owners.get(at) or self._known[at, stats[at].start].owner
                if found is not None:
                    break
                way.append(at)
                at = stats[at].ppid
            if found is not None:
                for child in [*way, pid]:
                    owners[child] = found
                    self._known[child, stats[child].start].owner = found
        return owners

    def _usage(
        self,
        uid: str,
        pids: Iterable[int],
        stats: Mapping[int, _Stat],
        before: Mapping[Process, _Known],
        elapsed: float,
    ) -> Usage:
        size = ticks = count = agent = 0
        processes: list[Process] = []
        for pid in pids:
            stat = stats[pid]
            process = (pid, stat.start)
            size += self._memory(pid, stat)
            count += 1
            processes.append(process)
            old = before.get(process)
            ticks += stat.ticks - old.ticks if old is not None and old.ticks >= 0 else 0
            known = self._known[process]
            if known.agent is None:
                known.agent = self._is_agent(pid, uid)
            if known.agent:
                agent = max(agent, pid) if agent == 0 else agent
        percent = 100 * ticks / TICKS_PER_S / elapsed if elapsed > 0 else 0.0
        return Usage(agent, count, size, round(percent, 1), tuple(processes))

    # one process

    def _stat(self, pid: str) -> _Stat | None:
        """None for one that is gone, or a zombie: it uses nothing."""
        try:
            with open(f"{self._proc}/{pid}/stat", "rb", buffering=0) as file:
                fields = file.read(4096).rpartition(b")")[2].split()
            if fields[0] in (b"Z", b"X"):
                return None
            return _Stat(
                int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]), int(fields[21]) * PAGE
            )
        except (OSError, IndexError, ValueError):
            return None

    def _mark(self, pid: int) -> str | None:
        """The session that it carries the mark of."""
        try:
            with open(f"{self._proc}/{pid}/environ", "rb", buffering=0) as file:
                environ = file.read(1 << 20)
        except OSError:  # gone, or somebody else's
            return None
        at = 0 if environ.startswith(MARK) else environ.find(b"\0" + MARK) + 1
        if at == 0 and not environ.startswith(MARK):
            return None
        return environ[at + len(MARK) :].partition(b"\0")[0].decode("ascii", "replace") or None

    def _memory(self, pid: int, stat: _Stat) -> int:
        known = self._known[pid, stat.start]
        known.age += 1
        if known.pss and known.age < FRESH_LOOKS and abs(stat.rss_bytes - known.rss) < SAME_BYTES:
            return known.pss
        known.pss, known.rss, known.age = self._ask(pid, stat), stat.rss_bytes, 0
        return known.pss

    def _ask(self, pid: int, stat: _Stat) -> int:
        with suppress(OSError, ValueError, IndexError):
            with open(f"{self._proc}/{pid}/smaps_rollup", "rb", buffering=0) as file:
                text = file.read(4096)
            at = text.find(b"\nPss:")
            if at >= 0:
                return int(text[at + 5 :].split(None, 1)[0]) * 1024
        return stat.rss_bytes

    def _is_agent(self, pid: int, uid: str) -> bool:
        """Whether it is the agent itself: its keeper gave it our file as standard output, in a session of its
        own.
        """
        try:
            out = os.readlink(os.fsencode(f"{self._proc}/{pid}/fd/1"))  # noqa: PTH115  # bytes
            own = os.getsid(pid) == pid
        except OSError:
            return False
        return own and out.startswith(self._sessions + b"/" + uid.encode() + b"/out.")


def _above(pid: int, stats: Mapping[int, _Stat], services: Mapping[int, str]) -> str | None:
    """The service that a process belongs to, by its parents."""
    for _ in range(64):  # deeper than any tree of ours; and a look is no instant: no loop may hold us
        if pid in services:
            return services[pid]
        if pid not in stats:
            return None
        pid = stats[pid].ppid
    return None


def memory_limit(
    total: int, group: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> int:
    """Bytes that this process may use at all: the machine's, or its cgroup's (v1 or v2) if that is less."""
    limits = [total]
    try:
        lines = group.read_text().splitlines()
    except OSError:
        return total
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        for at in (folder, *folder.parents):  # a limit holds for everything below it
            with suppress(OSError, ValueError):  # "max"
                value = int((at / name).read_text())
                if 0 < value < UNLIMITED:
                    limits.append(value)
            if at == base:
                break
    return min(limits)
