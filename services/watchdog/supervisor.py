"""Our end of the way to supervisord (`services/supervision`): it speaks to our standard input, we answer and
ask on our standard output.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import trio

from services._process.logs import Log
from services._process.output import Output
from services.watchdog.programs import Said

BEGIN, END = b"<!--XSUPERVISOR:BEGIN-->", b"<!--XSUPERVISOR:END-->"
LINE_BYTES = 64 << 10


class Supervisor:
    """Only for a process that supervisord started: our standard input is a pipe from it then, ``output`` one
    to it, which the log uses as well.
    """

    def __init__(self, heard: Callable[[Said], None], output: Output, log: Log) -> None:
        self._heard = heard
        self._output = output
        self._log = log

    async def run(self) -> None:
        """Until supervisord is gone."""
        waiting = b""
        async with trio.lowlevel.FdStream(os.dup(0)) as stream:
            async for chunk in stream:
                *lines, waiting = (waiting + chunk).split(b"\n")
                for line in lines:
                    self._line(line)
                if len(waiting) > LINE_BYTES:
                    waiting = b""

    def restart(self, name: str, pid: int) -> None:
        """Ask it to restart this process of a service. It says what came of it."""
        self._say({"restart": name, "pid": pid})

    def start(self, name: str) -> None:
        """Ask it to start this service, which ended. It says what came of it."""
        self._say({"start": name})

    def _line(self, line: bytes) -> None:
        try:
            said = msgspec.json.decode(line, type=Said)
        except msgspec.DecodeError as error:
            self._log.warning("not understood what supervisord said", reason=str(error))
            return
        if said.processes:
            self._say({})
        self._heard(said)

    def _say(self, said: dict[str, object]) -> None:
        self._output.write(BEGIN + msgspec.json.encode(said) + END)  # what it does not take is asked again
