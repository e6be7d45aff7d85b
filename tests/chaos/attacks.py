"""What happens to the processes: killed, stopped and continued, cut off from the broker.

First every process in turn, each with every attack that there is for it (`TARGETS`), until it has struck;
then by chance. An attack is chosen by the seed alone; which process it hits is found when it strikes. Only
processes of the attacked stack are touched: its services by what they wrote into their locks, the rest by an
open path of its home in their command line.
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
ACTIONS = (KILL, STOP, CUT)
TARGETS: dict[str, dict[str, int]] = {
    # target → {action: how often by chance}
    "mqtt": {KILL: 4, STOP: 2, CUT: 1},  # the broker; cut: all of its clients at once
    "broker": {KILL: 3, STOP: 1, CUT: 1},  # our own process, which runs it
    **{name: {KILL: 5, STOP: 2, CUT: 3} for name in SERVICES if name != "broker"},
    "bridge": {KILL: 4, STOP: 1, CUT: 2},
    "keeper": {KILL: 1, STOP: 1},
    "agent": {KILL: 1, STOP: 1},
    "supervision": {
        KILL: 1,
        STOP: 1,
    },  # supervisord's event listener, by which the watchdog restarts services
    "supervisord": {KILL: 1, STOP: 1},
    "everything": {KILL: 1, STOP: 1},  # supervisord and all below it at once: a power cut, a laptop's sleep
}
NO_CONNECTION = {
    "keeper": "no connection: it holds the agent's pipe open",
    "agent": "a pipe and a file, no connection: what they lead to is the bridge's to ingest, which is cut",
    "supervision": "no connection but pipes and a local socket",
    "supervisord": "no connection",
    "everything": "all connections to the broker at once: `mqtt` cut",
}
"""Who cannot be cut off, and why."""
AGENT_PAUSE_S = 30.0  # an agent that dies four times within a minute fails its session, by design
STRIKE_S = 120.0  # within this there is a process to hit: after `everything` they come back one by one
TURN_PAUSE_S = 0.4  # between two attacks of the turn
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
    rows = [(t, a, w) for t, actions in TARGETS.items() if t not in without for a, w in actions.items()]

    def following() -> Attack:
        target, action, _ = chance.choices(rows, [weight for _, _, weight in rows])[0]
        return Attack(target, action, chance.expovariate(1 / mean_pause_s), chance.uniform(0.2, 6.0))

    return following


def in_turn(
    seed: int, part: tuple[int, int] = (0, 1), *, without: frozenset[str] = frozenset()
) -> list[Attack]:
    """Every attack on every process, once; or ``part`` of them: (1, 3) is every third, from the second on."""
    chance = random.Random(seed)
    rows = [(t, a) for t, actions in TARGETS.items() if t not in without for a in actions]
    first, parts = part
    return [Attack(t, a, TURN_PAUSE_S, chance.uniform(0.2, 3.0)) for t, a in rows[first::parts]]


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

    def __init__(
        self, stack: Stack, turn: list[Attack], following: Callable[[], Attack], chance: random.Random
    ) -> None:
        self._stack = stack
        self._turn = turn
        self._following = following
        self._chance = chance
        self._held: list[tuple[float, int]] = []  # (until, pid)
        self._agent_hit: dict[str, float] = {}
        self.blows: list[Blow] = []
        self.missed: list[Attack] = []  # of the turn: there was nothing to hit
        self.came_to_its_end = False  # else it died, and what came after was no crash test

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        return Counter((blow.target, blow.action) for blow in self.blows)

    def run(self, ended: threading.Event) -> None:
        """The turn to its end, then by chance until told to end."""
        for attack in self._turn:
            if not self._until_struck(attack):
                self.missed.append(attack)
            time.sleep(attack.pause_s)
        while not ended.is_set():
            attack = self._following()
            self._step(attack)
            ended.wait(attack.pause_s)
        self._release(float("inf"))
        self._bring_back()
        self.came_to_its_end = True

    def _until_struck(self, attack: Attack) -> bool:
        end = time.monotonic() + STRIKE_S
        while time.monotonic() < end:
            if self._step(attack):
                return True
            time.sleep(0.1)
        return False

    def _step(self, attack: Attack) -> bool:
        self._release(time.monotonic())
        struck = self._strike(attack)
        self._bring_back()
        return struck

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

    def _strike(self, attack: Attack) -> bool:
        """Returns whether something was hit."""
        pids = self._find(attack.target)
        struck = False
        if not pids:
            return struck
        if attack.target != "everything":
            pids = [self._chance.choice(sorted(pids))]
        for pid in pids:
            session = _session_of(pid)
            if attack.target in ("agent", "keeper") and attack.action == KILL:
                if time.monotonic() - self._agent_hit.get(session or "", -1e9) < AGENT_PAUSE_S:
                    return struck
                self._agent_hit[session or ""] = time.monotonic()
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if attack.action == KILL:
                    os.kill(pid, signal.SIGKILL)
                elif attack.action == STOP:
                    os.kill(pid, signal.SIGSTOP)
                    self._held.append((time.monotonic() + attack.hold_s, pid))
                elif not cut(pid):
                    return struck
                self.blows.append(Blow(time.time(), attack.target, attack.action, pid, session))
                struck = True
        supervisord = self._stack.supervisord
        if supervisord is not None and supervisord.pid in pids and attack.action == KILL:
            supervisord.wait()  # only then can it be seen that it has to be brought back
        return struck

    def _find(self, target: str) -> list[int]:
        supervisord = self._stack.supervisord
        if target in ("supervisord", "everything"):
            if supervisord is None or supervisord.poll() is not None:
                return []
            below = psutil.Process(supervisord.pid).children(recursive=True) if target == "everything" else []
            if target == "everything" and len(below) < len(SERVICES):
                return []  # it is just being started: that is no everything
            return [supervisord.pid, *(child.pid for child in below)]
        if target in SERVICES:
            return [pid for pid in [self._service(target)] if pid]
        if target == "supervision":
            return self._listener()
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

    def _listener(self) -> list[int]:
        found = []
        with contextlib.suppress(psutil.Error):
            supervisord = self._stack.supervisord
            for child in psutil.Process(supervisord.pid).children() if supervisord else []:
                if "services.supervision" in child.cmdline():
                    found.append(child.pid)
        return found

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
    """End the TCP connections of another process, as a network would. Returns whether there was one."""
    established = psutil.CONN_ESTABLISHED
    links = [x.fd for x in psutil.Process(pid).net_connections("tcp") if x.status == established]
    pidfd = os.pidfd_open(pid)
    try:
        ended = [_shut(pid, pidfd, fd) for fd in links]
    finally:
        os.close(pidfd)
    return any(ended)


def _shut(pid: int, pidfd: int, fd: int) -> bool:
    """Take a copy of its socket (pidfd_getfd(2), Linux 5.6 and later; one's own processes), shut it down."""
    copy = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, pidfd, fd, 0)
    if copy < 0:
        error = ctypes.get_errno()
        if error in (3, 9):  # ESRCH, EBADF: gone in the meantime
            return False
        raise OSError(error, os.strerror(error), f"pidfd_getfd of {pid}")
    try:
        taken = socket.socket(fileno=copy)
    except OSError:  # ENOTSOCK: gone in the meantime, and its number is a file's
        os.close(copy)
        return False
    with taken, contextlib.suppress(OSError):
        taken.shutdown(socket.SHUT_RDWR)
    return True
