"""The tmux window: follows the journal by itself and prints what `View` makes of it, also while ingest is
away.

It never holds up the frames' way to ingest: it is woken with it, waits a moment, and prints what has come by
then. A terminal that does not take output (somebody pressed Ctrl-S) only stops the printing.
"""

from __future__ import annotations

import contextlib
import os
import select
import termios
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import trio

from services.bridge.files import Launch
from services.bridge.view import View

JOIN_S = 0.01  # deltas printed at once; also keeps printing out of the way of forwarding
READ_BYTES = 256 * 1024
BEHIND_BYTES = 256 * 1024  # further behind than this, deltas are skipped: finished texts follow anyway
HINT_EVERY_S = 10.0
LAST_WORDS_MS = 200  # for a terminal to take the rest at the end


class Window:
    """The screen (``out``) and keyboard (``keys``) of one bridge, as file descriptors."""

    def __init__(self, launch: Launch, stderr: Path, *, out: int = 1, keys: int = 0) -> None:
        self._launch = launch
        self._view = View(launch.uid, launch.process)
        self._stderr = stderr
        self._stderr_at = 0
        self._keys = keys
        self._out = _reopened(out)
        self._before: list[object] | None = None
        self._pending = bytearray()
        self._journal = -1
        self._at = 0
        self._piece = b""
        self._lines: deque[tuple[int, bytes]] = deque()  # its place in the journal, line to the agent
        self._wake = trio.Event()
        self._hint_after = 0.0
        self._ended: str | None = None

    def start(self, journal: int, offset: int, *, again: bool) -> None:
        """Begin at this byte of the journal, the start of a line. ``again``: after another bridge."""
        self._journal = journal
        self._at = offset
        if again and self._stderr.exists():
            self._stderr_at = self._stderr.stat().st_size
        with contextlib.suppress(termios.error):
            before = termios.tcgetattr(self._keys)
            quiet = list(before)
            quiet[0] &= ~termios.IXON  # Ctrl-S must not stop the window
            quiet[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(self._keys, termios.TCSANOW, quiet)
            self._before = before
        self._size()
        self._print(self._view.header(self._launch.session, self._launch.cwd, self._launch.argv, again=again))
        self._wake.set()

    def note(self, text: str) -> None:
        """A dim line of our own."""
        self._print(self._view.note(text))
        self._wake.set()

    def place(self) -> int:
        """Where a line belongs that the agent is given now: after all that it has said."""
        return os.fstat(self._journal).st_size

    def written(self, line: bytes, place: int) -> None:
        """The agent was given this line."""
        self._lines.append((place, line))
        self._wake.set()

    def wake(self) -> None:
        """The journal or stderr has grown."""
        self._wake.set()

    def ended(self, code: int | None) -> None:
        """The agent is gone; said once all of its frames are shown."""
        known = "for a reason that nobody knows" if code is None else f"with exit code {code}"
        self._ended = f"the agent has ended {known}"
        self._wake.set()

    def key(self) -> None:
        """Somebody typed here."""
        if trio.current_time() >= self._hint_after:
            self._hint_after = trio.current_time() + HINT_EVERY_S
            self._print(self._view.hint(self._launch.session))
            self._wake.set()

    async def run(self) -> None:
        """Print until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._before is not None:
                nursery.start_soon(self._watch_keys)
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                await trio.sleep(JOIN_S)
                for text in self._news():
                    self._print(text)
                    await self._flush()
                await self._flush()

    def close(self) -> None:
        """Print what is left, as far as the terminal takes it, and give the terminal back."""
        for text in self._news():
            self._print(text)
        poll = select.poll()
        poll.register(self._out, select.POLLOUT)
        with contextlib.suppress(OSError):
            while self._pending and poll.poll(LAST_WORDS_MS):
                del self._pending[: os.write(self._out, self._pending[:4096])]
        if self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSANOW, self._before)  # type: ignore[arg-type]  # what tcgetattr gave
        os.close(self._out)

    def _print(self, text: str) -> None:
        self._pending += text.encode("utf-8", "replace")

    async def _flush(self) -> None:
        try:
            while self._pending:
                try:
                    del self._pending[: os.write(self._out, self._pending[:65536])]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._out)
        except OSError:  # the terminal is gone; SIGHUP is on its way
            self._pending.clear()
        await trio.lowlevel.checkpoint()

    def _news(self) -> Iterator[str]:
        """What to print for all that has come, a piece at a time."""
        if self._journal < 0:
            return
        self._size()
        while True:
            while self._lines and self._lines[0][0] <= self._at:
                yield self._view.line(self._lines.popleft()[1])
            most = min(READ_BYTES, self._lines[0][0] - self._at) if self._lines else READ_BYTES
            if not (data := os.pread(self._journal, most, self._at)):
                break
            behind = os.fstat(self._journal).st_size - self._at > BEHIND_BYTES
            self._at += len(data)
            *lines, self._piece = (self._piece + data).split(b"\n")
            shown = (line for line in lines if not (behind and b'"stream_event"' in line[:200]))
            yield "".join(map(self._view.frame, shown))
        with contextlib.suppress(OSError), self._stderr.open("rb") as file:
            file.seek(self._stderr_at)
            said = file.read(READ_BYTES)
            self._stderr_at += len(said)
            yield self._view.stderr(said.decode("utf-8", "replace"))
        if self._ended:
            yield self._view.note(self._ended)
            self._ended = None

    def _size(self) -> None:
        with contextlib.suppress(OSError):  # no terminal: the usual width
            self._view.width = os.get_terminal_size(self._out).columns or 80

    async def _watch_keys(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._keys)
            try:
                if not os.read(self._keys, 1024):
                    return
            except OSError:
                return
            self.key()


def _reopened(fd: int) -> int:
    """The same terminal or pipe, non-blocking for us alone: the flag belongs to an opening, not the file."""
    try:
        return os.open(
            f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_APPEND
        )
    except OSError:  # a socket
        return os.dup(fd)
