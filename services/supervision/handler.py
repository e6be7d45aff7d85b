"""Inside supervisord: what is done at each event that the listener has taken (see the package).

Nothing here waits, and nothing that goes wrong here leaves: supervisord would take an exception of ours for a
fault of the listener and send it no more events.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from supervisor import events
from supervisor.options import make_namespec
from supervisor.rpcinterface import SupervisorNamespaceRPCInterface
from supervisor.xmlrpc import Faults, RPCError

from services.supervision.logfiles import Losses

WATCHDOG = "watchdog"
TICK_S = events.Tick5Event.period
HUNG = 5  # ticks without an answer: 25 s
HUNG_YOUNG = 36  # for one that has yet to come up: a loaded machine takes a minute over it
RESTARTS = 3  # of the watchdog; for the others it keeps the same account itself
RESTARTS_S = 600.0


class Handler:
    """Called by supervisord, in its own loop."""

    def __init__(self, losses: Losses, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._losses = losses
        self._monotonic = monotonic
        self._interface: Any = None  # from the first tick on
        self._to_start: set[str] = set()  # group:name of what was stopped here, and is to start again
        self._pid = 0  # the watchdog's
        self._answered = False
        self._unanswered = 0
        self._restarts: deque[float] = deque(maxlen=RESTARTS)  # of the watchdog, monotonic
        self._owed: dict[str, Any] = {}  # what its successor is to be told
        self._events: Counter[str] = Counter()  # taken, by supervisord's names for their types
        self._counts = {"restarts": 0, "refused": 0, "unanswered": 0, "faults": 0}

    def __call__(self, event: Any, _result: bytes) -> None:
        self._events[events.getEventNameByType(type(event))] += 1
        try:
            self._handle(event)
        except RPCError as error:
            if error.code != Faults.SHUTDOWN_STATE:
                self._fault(event, error.text)
        except Exception as error:  # noqa: BLE001  # a fault of ours must not become supervisord's
            self._fault(event, repr(error))

    def _fault(self, event: Any, text: str) -> None:
        self._counts["faults"] += 1
        _warn(event, text)

    def _handle(self, event: Any) -> None:
        if isinstance(event, events.Tick5Event):
            self._interface = SupervisorNamespaceRPCInterface(event.supervisord)
            self._start()
            if time.time() - event.when < 2 * TICK_S:  # an older one has waited for the listener
                self._ask(event)
        elif self._interface is None:
            return
        elif isinstance(event, events.ProcessStateStoppedEvent):
            self._start()
        elif isinstance(event, events.ProcessStateBackoffEvent):
            self._tell({"died": event.process.config.name})
        elif isinstance(event, events.ProcessStateExitedEvent):
            if not event.expected:
                self._tell({"died": event.process.config.name})
        elif event.process.config.name == WATCHDOG and event.pid == self._pid:
            self._answered, self._unanswered = True, 0
            wish = json.loads(event.data)
            if "restart" in wish:
                name, pid = wish["restart"], wish["pid"]
                self._tell({"restarted": name, "problem": self._restart(name, pid)})
            elif "start" in wish:
                self._tell({"started": wish["start"], "problem": self._start_ended(wish["start"])})

    def _ask(self, event: Any) -> None:
        """Tell the watchdog how everybody is, which it is to answer; it hangs if it does not."""
        dog = self._info(WATCHDOG)
        if dog is None or dog["statename"] != "RUNNING":
            return
        if dog["pid"] != self._pid:
            self._pid, self._answered, self._unanswered = dog["pid"], False, 0
        limit = HUNG if self._answered else HUNG_YOUNG
        self._counts["unanswered"] += self._unanswered > 0
        if self._unanswered < limit:
            if self._owed:
                self._tell(self._owed)
                self._owed = {}
            shown = ("name", "statename", "pid", "exitstatus")
            everybody = self._interface.getAllProcessInfo()
            processes = [{key: info[key] for key in shown} for info in everybody]
            counts = {**self._counts, "lines_lost": self._losses.lines}
            self._tell({"processes": processes, "figures": {"events": self._events, **counts}})
        elif self._unanswered % limit == 0:
            self._watchdog_hangs(event, f"it did not answer supervisord for {limit * TICK_S} s: it hung")
        self._unanswered += 1

    def _watchdog_hangs(self, event: Any, why: str) -> None:
        now = self._monotonic()
        if len(self._restarts) == RESTARTS and now - self._restarts[0] < RESTARTS_S:
            _warn(event, f"{why} again and again; it is left as it is")
            return
        problem = self._restart(WATCHDOG, self._pid)
        if problem is None:
            self._restarts.append(now)
            self._owed = {"restarted": WATCHDOG, "reason": why}
        _warn(event, f"{WATCHDOG}: {why}; {problem or 'restarted'}")

    def _restart(self, name: str, pid: int) -> str | None:
        """Stop it, to be started once it has stopped. Returns why not."""
        problem = self._stop(name, pid)
        self._counts["refused" if problem else "restarts"] += 1
        return problem

    def _stop(self, name: str, pid: int) -> str | None:
        info = self._info(name)
        if info is None or info["pid"] != pid:
            return f"process {pid} is not {name}"
        whole = make_namespec(info["group"], name)
        try:
            self._interface.stopProcess(whole, wait=False)
        except RPCError as error:
            return str(error.text)
        self._to_start.add(whole)
        return None

    def _start_ended(self, name: str) -> str | None:
        """Start one that supervisord leaves alone since it ended. Returns why not."""
        info = self._info(name)
        if info is None or info["statename"] != "EXITED":
            return f"{name} has not ended"
        try:
            self._interface.startProcess(make_namespec(info["group"], name), wait=False)
        except RPCError as error:
            return str(error.text)
        return None

    def _start(self) -> None:
        for whole in sorted(self._to_start):
            state = self._interface.getProcessInfo(whole)["statename"]
            if state == "STOPPING":  # supervisord sends SIGKILL after stopwaitsecs
                continue
            self._to_start.remove(whole)
            if state == "STOPPED":
                self._interface.startProcess(whole, wait=False)

    def _tell(self, said: dict[str, Any]) -> None:
        """One line; none for a watchdog that does not read: so what waits for it is bounded."""
        dog = self._info(WATCHDOG)
        if dog is None or dog["statename"] != "RUNNING" or dog["pid"] != self._pid:
            return
        if self._unanswered < HUNG_YOUNG:
            whole = make_namespec(dog["group"], WATCHDOG)
            self._interface.sendProcessStdin(whole, json.dumps(said) + "\n")

    def _info(self, name: str) -> dict[str, Any] | None:
        return next((info for info in self._interface.getAllProcessInfo() if info["name"] == name), None)


def _warn(event: Any, text: str) -> None:
    supervisord = getattr(event, "supervisord", None)
    options = supervisord.options if supervisord is not None else event.process.config.options
    options.logger.warn(f"supervision: {text}")
