"""From ``python -m services.<name>`` to the exit code: what is around every service.

Order: end with the parent → log, under supervisord → configuration → home → log, by hand → lock → metrics →
bus → health and ``serve`` → say ``offline`` → exit. Exit codes, which supervisord.conf refers to:

| code | meaning | supervisord |
|---|---|---|
| 0 | told to stop (SIGTERM, SIGINT, or the parent is gone) | starts it again, unless it stopped it itself |
| 2 | the user's mistake: configuration, home | leaves it until the watchdog sees the file changed |
| 3 | the same service already runs for this home | leaves it |
| 4 | the world is in the way: a port, a program, a database | tries again |
| 70 | a bug of ours (EX_SOFTWARE of sysexits.h); the traceback is in the log | starts it again |
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
import psutil
import trio

from bus import messages as m
from bus import topics as t
from bus.client import MqttBus
from bus.errors import BusDownError
from services._process.config import load_config, user_home
from services._process.config_keys import Config
from services._process.connect import GRACE_S, ConnectionLog, connect_service
from services._process.context import Context
from services._process.errors import ConfigError, LockHeldError, WorldError
from services._process.home import Home
from services._process.lock import hold_lock
from services._process.logs import Log, log_to, open_log, tell_seldom
from services._process.metrics import BusFigures, Figures, start_metrics_server
from services._process.output import ON_STDOUT, Output, take_stdout
from services._process.parent import Parent
from services._process.store import StoreError, trouble

EXIT_STOPPED, EXIT_CONFIG, EXIT_LOCKED, EXIT_WORLD, EXIT_BUG = 0, 2, 3, 4, 70

STOP_S = 1.8  # the contract's 2 s, less what the interpreter needs to end
TELL_S = 1.0  # for a connection to say on the bus why we end: at the start there may be none yet
GOODBYE_S = 1.0  # for the last messages and our ``offline`` to reach the broker
HEALTH_EVERY_S = 10.0
LAG_PROBE_S = 0.5
# Cyclic garbage is looked for this seldom: with 500 sessions connected, looking at all that they hold takes
# 30 ms, and at CPython's own 700 a burst of messages sets it off again and again.
COLLECT = (10_000, 10, 10)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # login(1) for root
# A broken database does not mend itself: starting takes a processor, and nothing comes of it.
STORE_PAUSE_S = 5.0
SETTLED_S = 1.5  # supervisord calls a process started after startsecs = 1; see _leave

WORLDS = {
    errno.ENOSPC: "make room on the disk",
    errno.EDQUOT: "make room in the disk quota",
    errno.EROFS: "the disk is mounted for reading alone",
    errno.EIO: "look after the disk",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the whole system has too many files open",
}
"""What the kernel refuses through nobody's fault of ours, and what to do."""

Serve = Callable[[Context], Awaitable[None]]


class UnaskedEndError(Exception):
    """Our fault: a service's ``serve`` returned."""


def run_service(name: str, serve: Serve) -> NoReturn:
    """Run a service until it is told to stop; ``serve`` is cancelled then, and has about a second to tidy up.

    What ``serve`` raises decides the exit code: `ConfigError`, `WorldError`, `BusDownError` and `StoreError`
    are told to the user in one line, and so is what SQLite or the kernel raise through the world's fault
    (`_worlds`); anything else is a bug. Returning by itself is one as well.
    """
    signal.signal(signal.SIGTERM, _leave_at_once)  # until trio listens
    signal.signal(signal.SIGINT, _leave_at_once)
    os.environ.setdefault("PATH", DEFAULT_PATH)  # supervisord may be started with an empty environment
    os.environ.setdefault("HOME", str(user_home(os.environ)))
    _leave(_run(name, serve, os.environ))


def _run(name: str, serve: Serve, environ: Mapping[str, str]) -> int:
    parent = Parent.watch(environ)
    if parent.gone():
        return EXIT_STOPPED
    output = take_stdout() if ON_STDOUT in sys.argv[1:] else None
    log = log_to(output, name) if output else None
    try:
        config = load_config(environ)
        home = Home(config.node.home)
        log = log or open_log(home.logs, name)
        for sentence in config.unread:
            log.warning("variable not read", reason=sentence)
        tell_seldom("trio.serve_listeners")  # ten times a second when no file can be opened
        with hold_lock(home, name):
            trio.run(_Process(name, config, home, log, parent, output).main, serve)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001  # the outermost boundary: every error becomes an exit code
        return _explain(name, error, log)
    log.info("stopped")
    return EXIT_STOPPED


class _Process:
    """One run of a service, from its lock to its end."""

    def __init__(
        self, name: str, config: Config, home: Home, log: Log, parent: Parent, output: Output | None
    ) -> None:
        self.name = name
        self.config = config
        self.home = home
        self.log = log
        self.parent = parent
        self.output = output
        self.figures = Figures(name)
        self.connection_log = ConnectionLog(log)
        self.started = time.monotonic()
        self.lag_s = 0.0  # the longest since the last health snapshot
        self.doing = ""

    async def main(self, serve: Serve) -> None:
        """Returns when told to stop; raises what went wrong."""
        gc.collect()
        gc.freeze()  # what was imported stays: a collection that looks at all of it takes 20 ms
        gc.set_threshold(*COLLECT)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            port = start_metrics_server(self.config, self.home, self.name, self.figures.registry)
            bus = connect_service(self.config, self.home, self.name, self.log, self.connection_log)
            self.figures.registry.register(BusFigures(bus))
            self.log.info("started", pid=os.getpid(), node=self.config.node.name, metrics_port=port)
            context = Context(
                service=self.name,
                config=self.config,
                home=self.home,
                bus=bus,
                log=self.log,
                registry=self.figures.registry,
                errors=self.figures.errors,
                now=_now,
                doing=self._doing,
                output=self.output,
            )
            async with trio.open_nursery() as outer:  # the connection outlives what speaks over it
                outer.start_soon(bus.run)
                try:
                    async with trio.open_nursery() as inner:
                        inner.start_soon(self._stop_on_signal, signals, inner.cancel_scope)
                        inner.start_soon(self._stop_without_parent, inner.cancel_scope)
                        inner.start_soon(self._measure_lag)
                        inner.start_soon(self._miss_the_bus, bus)
                        inner.start_soon(self._say_health, bus)
                        await serve(context)
                        raise UnaskedEndError(f"{self.name} came to an end that nobody asked for")
                except (
                    BaseException
                ) as error:  # also a cancelled group's: a broken store is told, all is raised
                    causes = [_worlds(cause) for cause in _leaves(error)]
                    if not any(isinstance(cause, StoreError) for cause in causes):
                        raise
                    with trio.CancelScope(shield=True):
                        await self._say_end(bus, causes)
                    raise BaseExceptionGroup("the store cannot be used", causes) from error
                finally:
                    with trio.CancelScope(shield=True), trio.move_on_after(GOODBYE_S):
                        await bus.stop()
                    outer.cancel_scope.cancel()

    async def _say_end(self, bus: MqttBus, causes: list[BaseException]) -> None:
        """Who listens on the bus shall know as well that a person must act."""
        with suppress(BusDownError):
            await bus.wait_connected(TELL_S)
        for cause in causes:
            if isinstance(cause, StoreError):
                report = m.ErrorReport(
                    at=_now(), service=self.name, topic="", code="unavailable", message=str(cause)
                )
                bus.publish(t.ERRORS, report)

    async def _stop_on_signal(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            self._stop(scope, signal.Signals(number).name)

    async def _stop_without_parent(self, scope: trio.CancelScope) -> None:
        """The kernel's signal is quicker; this is for systems without it."""
        while not self.parent.gone():  # noqa: ASYNC110  # the system has no event for it
            await trio.sleep(1.0)
        self._stop(scope, "the parent process is gone")

    def _stop(self, scope: trio.CancelScope, reason: str) -> None:
        self.log.info("stopping", reason=reason)
        self.connection_log.stopping = True
        deadline = threading.Timer(STOP_S, self._give_up)
        deadline.daemon = True
        deadline.start()
        scope.cancel()

    def _give_up(self) -> None:
        self.log.warning("did not stop in time: ended as it stands", after_s=STOP_S)
        os._exit(EXIT_STOPPED)  # stores are transactional: there is nothing that must still be written

    def _doing(self, what: str) -> None:
        self.doing = what

    async def _miss_the_bus(self, bus: MqttBus) -> None:
        """One warning when the bus has not come up with us; later troubles are the connection's to tell."""
        await trio.sleep(GRACE_S)
        if not bus.connected:
            self.log.warning("no connection to the bus yet", reason=str(bus.trouble))

    async def _measure_lag(self) -> None:
        """How late a task runs that is due: what a blocked or overloaded loop costs everyone in it."""
        while True:
            due = trio.current_time() + LAG_PROBE_S
            await trio.sleep_until(due)
            self.lag_s = max(self.lag_s, trio.current_time() - due)

    async def _say_health(self, bus: MqttBus) -> None:
        process = psutil.Process()  # its first `cpu_percent` is 0 and starts the measurement
        rss = cpu = 0.0
        while True:
            self.figures.loop_lag.set(self.lag_s)
            with suppress(OSError, psutil.Error):  # no file can be opened: we live all the same
                rss, cpu = process.memory_info().rss, process.cpu_percent()
            health = m.ServiceHealth(
                service=self.name,
                pid=os.getpid(),
                rss_bytes=int(rss),
                cpu_percent=round(cpu, 1),
                loop_lag_ms=round(self.lag_s * 1000, 2),
                uptime_s=round(time.monotonic() - self.started, 1),
                queue_depth=bus.queued,
                errors_total=self.figures.errors_total(),
                doing=self.doing or msgspec.UNSET,
                at=_now(),
            )
            self.lag_s = 0.0
            bus.publish(t.SERVICE_HEALTH, health, self=self.name)
            await trio.sleep(HEALTH_EVERY_S)


def _now() -> datetime:
    return datetime.now(UTC)


# ── The end ──────────────────────────────────────────────────────────────────────────────────────────────


def _explain(name: str, error: BaseException, log: Log | None) -> int:
    """Tell the user what ended the process, and return the exit code for it. Call it within ``except``."""
    causes = [_worlds(cause) for cause in _leaves(error)]
    bugs = [cause for cause in causes if _code(cause) == EXIT_BUG]
    if bugs:
        if log is not None:
            log.exception("ended by a bug", where=_where(bugs[0]))
        else:
            _say(name, f"ended by a bug at {_where(bugs[0])}: {bugs[0]!r}")
        return EXIT_BUG
    for cause in causes:
        for line in str(cause).splitlines():
            _say(name, line)
    if log is not None:
        log.info("ended", reason=[str(cause) for cause in causes])
    if any(isinstance(cause, StoreError) for cause in causes) and "SUPERVISOR_ENABLED" in os.environ:
        time.sleep(STORE_PAUSE_S)  # SIGTERM ends it
    return max(map(_code, causes), default=EXIT_STOPPED)


def _worlds(cause: BaseException) -> BaseException:
    """A full disk, a locked or damaged database and their like, told as what they are."""
    if isinstance(cause, sqlite3.Error):
        return trouble(cause) or cause
    if isinstance(cause, OSError) and cause.errno in WORLDS:
        return WorldError(f"{cause}: {WORLDS[cause.errno]}")
    return cause


def _code(cause: BaseException) -> int:
    if isinstance(cause, ConfigError):
        return EXIT_CONFIG
    if isinstance(cause, LockHeldError):
        return EXIT_LOCKED
    if isinstance(cause, WorldError | StoreError | BusDownError):
        return EXIT_WORLD
    return EXIT_BUG


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in a group of groups; cancellations and the stop itself are no causes."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    elif not isinstance(error, trio.Cancelled):
        yield error


def _where(error: BaseException) -> str:
    """The innermost line of our own code, e.g. services/ledger/shell.py:120."""
    root = Path(__file__).parents[2]
    place, trace = "?", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(root) and ".venv" not in path.parts:
            place = f"{path.relative_to(root)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _say(name: str, text: str) -> None:
    with suppress(OSError):  # nobody reads it: that is no reason for another exit code
        print(f"{name}: {text}", file=sys.stderr, flush=True)  # noqa: T201  # there may be no log yet


def _leave_at_once(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_STOPPED)


def _leave(code: int) -> NoReturn:
    """Exit. supervisord looks at an exit code only once it counts the process as started: what must not be
    tried again waits that long, else it would be tried again and again.
    """
    if code in {EXIT_CONFIG, EXIT_LOCKED} and "SUPERVISOR_ENABLED" in os.environ:
        time.sleep(SETTLED_S)
    sys.exit(code)
