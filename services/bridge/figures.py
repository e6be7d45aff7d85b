"""What a bridge tells of itself and its keeper (`bus.bridge_wire.Figures`); ingest serves it to Prometheus.

Neither serves `/metrics` itself. There is a pair for each session: its ports and targets would change with
every session, and each new target would be new series for Prometheus to keep. The keeper, on which the
agent's life hangs, would be nearly three times as large with a server in it (measured: 5.3 to 13.5 MB).
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from bus import bridge_wire as wire
from services import version
from services._process.pids import PROC, stat_fields
from services.bridge import model
from services.bridge.files import SessionDir

BLOCK = 512  # bytes: the unit of st_blocks, whatever the file system's own (inode(7))
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Tally:
    """Counts what happens to the bridge from its start on; looks at the processes when it is asked."""

    def __init__(self) -> None:
        self._version = version()  # this process's: an update puts another one on the disk
        self._connected = False
        self.lines_out = self.bytes_out = self.lines_in = self.bytes_in = self.unwritable = 0
        self.connections = self.failed_connections = 0

    def count(self, event: model.Event) -> None:
        match event:
            case model.Chunk():
                self.lines_out += event.data.count(b"\n")
                self.bytes_out += len(event.data)
            case model.Wrote():
                self.lines_in += 1
                self.bytes_in += event.size
            case model.NotWritten():
                self.unwritable += 1
            case model.Connected():
                self._connected = True
                self.connections += 1
            case model.Lost():
                self.failed_connections += not self._connected
                self._connected = False

    def figures(self, state: model.State, session: SessionDir, journal: int) -> wire.Figures:
        """``journal``: the open file."""
        bridge = used(os.getpid())
        assert bridge is not None  # noqa: S101  # it is we
        return wire.Figures(
            version=self._version[:64],
            bridge=bridge,
            keeper=_keeper(session),
            journal_bytes=os.fstat(journal).st_blocks * BLOCK,
            unacknowledged_bytes=max(0, state.size - state.acked),
            waiting_lines=len(state.queue) + len(state.untaken),
            lines_out=self.lines_out,
            bytes_out=self.bytes_out,
            lines_in=self.lines_in,
            bytes_in=self.bytes_in,
            unwritable=self.unwritable,
            connections=self.connections,
            failed_connections=self.failed_connections,
        )


def used(pid: int, proc: Path = PROC) -> wire.Used | None:
    """What a process uses (proc(5)); None for one that is gone, a zombie, or somebody else's."""
    with suppress(OSError, IndexError, ValueError):
        fields = stat_fields(pid, proc)
        if fields[0] not in (b"Z", b"X"):
            age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / TICKS_PER_S
            return wire.Used(
                rss_bytes=int(fields[21]) * PAGE,
                cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
                open_fds=len(os.listdir(proc / str(pid) / "fd")),  # noqa: PTH208  # names are enough
                started_s=max(0.0, round(time.time() - age_s, 2)),
            )
    return None


def _keeper(session: SessionDir) -> wire.Used | None:
    """The agent's parent, as long as it holds its lock: from then on the agent is init's child."""
    pid = session.agent_pid()
    if pid is None or not session.keeper_lives():
        return None
    with suppress(OSError, IndexError, ValueError):
        return used(int(stat_fields(pid)[1]))
    return None
