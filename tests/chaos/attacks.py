"""What happens to the processes: killed, stopped and continued, cut off from the broker.

An attack is chosen by the seed alone; which process it hits is found when it strikes. Only processes of the
attacked stack are touched: its services by what they wrote into their locks, the rest by an open path of its
home in their command line.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from tests.support.stack import SERVICES, Stack

KILL, STOP, CUT = "kill", "stop", "cut"
TARGETS: dict[str, tuple[tuple[str, int], ...]] = {
    # target → (action, weight)
    **{name: ((KILL, 5), (STOP, 2), (CUT, 3)) for name in SERVICES if name != "broker"},
    "broker": ((KILL, 3), (STOP, 1)),  # our own process
    "mqtt": ((KILL, 4), (STOP, 2)),  # the broker that it runs
    "bridge": ((KILL, 4), (STOP, 1), (CUT, 2)),
    "keeper": ((KILL, 1),),
    "agent": ((KILL, 1), (STOP, 1)),
    "supervisord": ((KILL, 1),),
    "everything": ((KILL, 1),),  # supervisord and all below it at once: a power cut without the power
}
AGENT_PAUSE_S = 30.0  # an agent that dies four times within a minute fails its session, by design
_PIDFD_GETFD = 438  # the number of the system call on every architecture that Linux has


@dataclass(frozen=True, slots=True)
class Attack:
    """``pause_s``: until the next; ``hold_s``: how long a stopped process stands still."""

    target: str
    action: str
    pause_s: float
    hold_s: float


def plan(seed: int, mean_pause_s: float, *, without: frozenset[str] = frozenset()) -> Callable[[], Attack]:
    """The next attack, each time it is called; the same row for the same seed."""
    chance = random.Random(seed)
    rows = [(t, a, w) for t, actions in TARGETS.items() if t not in without for a, w in actions]

    def following() -> Attack:
        target, action, _ = chance.choices(rows, [weight for _, _, weight in rows])[0]
        return Attack(target, action, chance.expovariate(1 / mean_pause_s), chance.uniform(0.2, 6.0))

    return following


@dataclass(frozen=True, slots=True)
class Blow:
    """What was done. ``at`` is wall-clock time; ``session`` where an agent or its window was hit."""

    at: float
    target: str
    action: str
    pid: int
    session: str | None


class Attacker:
    """Strikes until told to end; brings supervisord back."""

    def __init__(self, stack: Stack, following: Callable[[], Attack], chance: random.Random) -> None:
        self._stack = stack
        self._following = following
        self._chance = chance
        self._held: list[tuple[float, int]] = []  # (until, pid)
        self._agent_hit: dict[str, float] = {}
        self.blows: list[Blow] = []

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        return Counter((blow.target, blow.action) for blow in self.blows)

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set():
            attack = self._following()
            self._release(time.monotonic())
            self._strike(attack)
            self._bring_back()
            ended.wait(attack.pause_s)
        self._release(float("inf"))
        self._bring_back()

    def _bring_back(self) -> None:
        supervisord = self._stack.supervisord
        if supervisord is not None and supervisord.poll() is not None:
            self._stack.start(wait=False)

    def _release(self, now: float) -> None:
        for until, pid in list(self._held):
            if until <= now:
                self._held.remove((until, pid))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _strike(self, attack: Attack) -> None:
        pids = self._find(attack.target)
        if not pids:
            return
        if attack.target != "everything":
            pids = [self._chance.choice(sorted(pids))]
        for pid in pids:
            session = _session_of(pid)
            if attack.target in ("agent", "keeper") and attack.action == KILL:
                if time.monotonic() - self._agent_hit.get(session or "", -1e9) < AGENT_PAUSE_S:
                    return
                self._agent_hit[session or ""] = time.monotonic()
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if attack.action == KILL:
                    os.kill(pid, signal.SIGKILL)
                elif attack.action == STOP:
                    os.kill(pid, signal.SIGSTOP)
                    self._held.append((time.monotonic() + attack.hold_s, pid))
                elif not cut(pid):
                    return
                self.blows.append(Blow(time.time(), attack.target, attack.action, pid, session))

    def _find(self, target: str) -> list[int]:
        supervisord = self._stack.supervisord
        if target in ("supervisord", "everything"):
            if supervisord is None or supervisord.poll() is not None:
                return []
            below = psutil.Process(supervisord.pid).children(recursive=True) if target == "everything" else []
            return [supervisord.pid, *(child.pid for child in below)]
        if target in SERVICES:
            return [pid for pid in [self._service(target)] if pid]
        if target == "mqtt":
            broker = self._service("broker")
            with contextlib.suppress(psutil.NoSuchProcess):
                return [child.pid for child in psutil.Process(broker).children()] if broker else []
            return []
        return self._of_sessions(target)

    def _service(self, name: str) -> int:
        """Its pid, or 0: a lock may name a process that is gone, whose number another has now."""
        with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
            pid = self._stack.service_pid(name)
            if f"services.{name}" in psutil.Process(pid).cmdline():
                return pid
        return 0

    def _of_sessions(self, target: str) -> list[int]:
        mark = {"bridge": "services.bridge", "keeper": "keeper.py", "agent": "--output-format"}[target]
        home = str(self._stack.home)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                ours = home in " ".join(words) or process.environ().get("POINTSMAN_HOME") == home
                if ours and any(mark in word for word in words):
                    found.append(process.pid)
        return found


def _session_of(pid: int) -> str | None:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return process.environ().get("POINTSMAN_SESSION")
    return None


def cut(pid: int) -> bool:
    """End one TCP connection of another process, as a network would. Returns whether there was one.

    A copy of its socket is taken (pidfd_getfd(2), Linux 5.6 and later; one's own processes) and shut down.
    """
    established = psutil.CONN_ESTABLISHED
    links = [x for x in psutil.Process(pid).net_connections("tcp") if x.status == established]
    if not links:
        return False
    pidfd = os.pidfd_open(pid)
    try:
        copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, links[0].fd, 0)
    finally:
        os.close(pidfd)
    if copy < 0:
        error = ctypes.get_errno()
        if error in (3, 9):  # ESRCH, EBADF: gone in the meantime
            return False
        raise OSError(error, os.strerror(error), f"pidfd_getfd of {pid}")
    with socket.socket(fileno=copy) as taken, contextlib.suppress(OSError):
        taken.shutdown(socket.SHUT_RDWR)
    return True
