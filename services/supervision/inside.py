"""What supervisord loads of ours (``result_handler=`` in supervisord.conf) while it reads its configuration.

Loading it says where the logs go (`logfiles`): that is known by now to a stack, by its POINTSMAN_HOME or
configuration, and cannot stand in a supervisord.conf that two of them share. Where no service could start,
supervisord ends before it starts any, and tells why once: over a mistake in the configuration, because
another supervisord runs them for this home, or because services may not print where it prints.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import psutil

from services._process.config import load_config
from services._process.errors import ConfigError, HomeError, LockHeldError, WorldError
from services._process.home import Home
from services._process.lock import hold_lock
from services.supervision import logfiles
from services.supervision.handler import Handler

EXIT_CONFIG, EXIT_LOCKED, EXIT_WORLD = 2, 3, 4  # as the services' own
FIRST = "broker"  # the service that every stack starts first


def _home() -> Home:
    home = Home(load_config(os.environ).node.home)
    if not os.access(home.logs, os.W_OK | os.X_OK):
        raise HomeError(f"{home.logs} cannot be written into: make it yours, or set POINTSMAN_HOME elsewhere")
    return home


def _check_unserved(home: Home) -> None:
    """Raises `LockHeldError` where another supervisord runs the services of this home. One that is ending is
    waited for. What a person started by hand is left to the service itself, and so is a lock that cannot be
    made: the disk may be full, and have room again.
    """
    try:
        with hold_lock(home, FIRST):
            return
    except OSError:
        return
    except LockHeldError as held:
        other = _supervisor_of(held.pid)
    if other is not None:
        raise LockHeldError(
            f"Pointsman already runs for {home.path}, by another supervisord (pid {other}): end that first "
            f"(Ctrl-C in its terminal, or `kill {other}`), or set POINTSMAN_HOME for a second stack"
        )


def _check_terminal() -> None:
    """supervisord opens its stderr anew for each service. Another user's terminal, after `su`, and the
    journal's socket refuse that, which it would try for ever. Raises `WorldError`.
    """
    try:
        os.close(os.open("/dev/fd/2", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
    except OSError as error:
        raise WorldError(
            f"where this is printed, no service may print ({error.strerror}: another user's terminal, or a "
            "socket): use `make run`, or put `2>&1 | cat` behind the command"
        ) from error


def _supervisor_of(pid: int | None) -> int | None:
    """The supervisord that started this process; None if none did, or that cannot be seen."""
    with suppress(psutil.Error):
        if pid is not None and "SUPERVISOR_ENABLED" in psutil.Process(pid).environ():
            return psutil.Process(pid).ppid()
    return None


try:
    _own = _home()
    _check_unserved(_own)
    _check_terminal()
except (ConfigError, LockHeldError, WorldError) as error:
    for line in str(error).splitlines():
        sys.stderr.write(f"supervisord: {line}\n")
    known = {ConfigError: EXIT_CONFIG, LockHeldError: EXIT_LOCKED, WorldError: EXIT_WORLD}
    sys.exit(next(code for kind, code in known.items() if isinstance(error, kind)))

handle = Handler(logfiles.install(_own))
