"""The session directory: what the tmux service wrote, what the keeper writes, and what the bridge keeps."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from bus.bridge_wire import Count, ProcessNumber
from services._process.lock import is_held

ERROR_TAIL_BYTES = 2048  # of stderr, in the report of an exit
STDERR_STEP = 256 * 1024  # stderr holds at most about twice this on disk: what is older is punched out


class LaunchError(Exception):
    """launch.json is missing or wrong: the fault of who wrote it. The text names file and field."""


class Launch(Struct, frozen=True, kw_only=True):
    """launch.json, by the tmux service for each agent process. ``env``: the agent's whole environment."""

    session: str
    uid: str
    process: ProcessNumber
    argv: list[str]
    cwd: str
    env: dict[str, str]
    token: str
    resume: str | None = None

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("argv is empty")

    def __repr__(self) -> str:  # token and env stay out of logs
        return f"Launch({self.session!r}, {self.uid!r}, process={self.process})"


class Kept(Struct, frozen=True, kw_only=True):
    """The file `written`: the bridge's own memory of one process."""

    process: ProcessNumber
    written: Count = 0
    kept: Count = 0
    unwritable: list[tuple[int, str]] = []


class _Exit(Struct, frozen=True):
    code: Annotated[int, Meta(ge=-255, le=255)] | None


class _Address(Struct, frozen=True):
    port: Annotated[int, Meta(ge=1, le=65535)]
    host: str = "127.0.0.1"


class _Endpoints(Struct, frozen=True):
    ingest: _Address


class SessionDir:
    """Paths and contents of one session directory, for the process number of its launch.json."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.launch = self._read_launch()
        number = self.launch.process
        self.stdin = path / f"in.{number}"
        self.journal = path / f"out.{number}"
        self.stderr = path / f"err.{number}"
        self.pid_file = path / f"pid.{number}"
        self.exit_file = path / f"exit.{number}"
        self.keep_file = path / f"keep.{number}"

    def _read_launch(self) -> Launch:
        file = self.path / "launch.json"
        try:
            return msgspec.json.decode(file.read_bytes(), type=Launch)
        except OSError as error:
            raise LaunchError(f"{file}: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LaunchError(f"{file}: {error}") from None

    def ingest_url(self) -> str:
        """Where ingest listens now, by `endpoints.json` in the home. Raises LookupError with a text for
        people.
        """
        file = self.path.parent.parent / "endpoints.json"
        try:
            endpoints = msgspec.json.decode(file.read_bytes(), type=_Endpoints)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LookupError(f"{file}: {error}") from None
        host, port = endpoints.ingest.host, endpoints.ingest.port
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # listening everywhere includes here
        return f"ws://{f'[{host}]' if ':' in host else host}:{port}/ws/sessions/{self.launch.session}"

    def lock(self) -> bool:
        """Take bridge.lock for the rest of this process; False when another bridge has it."""
        fd = os.open(self.path / "bridge.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        return True

    def load(self) -> Kept:
        """What an earlier bridge of this process saved. Unreadable or of another process: nothing."""
        try:
            kept = msgspec.json.decode((self.path / "written").read_bytes(), type=Kept)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return Kept(process=self.launch.process)
        return kept if kept.process == self.launch.process else Kept(process=self.launch.process)

    def save(self, kept: Kept) -> None:
        """Keep over the death of this process (not of the machine: the agent dies with that, too)."""
        temporary = self.path / "written.new"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.encode(kept))
        temporary.replace(self.path / "written")

    def agent_pid(self) -> int | None:
        """The agent's process id; None when no agent was ever started."""
        try:
            return int(self.pid_file.read_bytes())
        except (OSError, ValueError):
            return None

    def exit_code(self) -> tuple[bool, int | None]:
        """(whether the keeper has reported the end, the code)."""
        try:
            return True, msgspec.json.decode(self.exit_file.read_bytes(), type=_Exit).code
        except FileNotFoundError:
            return False, None
        except (msgspec.DecodeError, UnicodeDecodeError):
            return True, None

    def keeper_lives(self) -> bool:
        """Whether a keeper holds its lock."""
        return is_held(self.keep_file)

    def open_agent(self) -> int | None:
        """A pidfd of the agent; None when it is gone. A process that merely got its number is told by its
        stdout.
        """
        pid = self.agent_pid()
        if pid is None:
            return None
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return None
        try:
            same = (Path("/proc") / str(pid) / "fd" / "1").samefile(self.journal)
        except OSError:
            same = False
        if same or self.keeper_lives():  # while its keeper waits for it, a number cannot be given again
            return fd
        os.close(fd)
        return None

    def stderr_tail(self) -> str | None:
        """The end of the agent's stderr as text; None when it said nothing."""
        try:
            with self.stderr.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - ERROR_TAIL_BYTES))
                text = file.read(ERROR_TAIL_BYTES).replace(b"\0", b"").decode("utf-8", "replace").strip()
        except OSError:
            return None
        return text or None


_libc = ctypes.CDLL(None, use_errno=True)
_PUNCH_KEEP_SIZE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, linux/falloc.h
PAGE = 4096


def punch(fd: int, end: int) -> bool:
    """Give the file's blocks below ``end`` back to the disk; its size stays, and the part reads as zeros.

    Returns False where the file system cannot do it. Other errors raise OSError.
    """
    length = end // PAGE * PAGE  # part of a block would only be overwritten with zeros
    if length == 0:
        return True
    while _libc.fallocate(fd, _PUNCH_KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(length)) != 0:
        code = ctypes.get_errno()
        if code in (errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        if code != errno.EINTR:
            raise OSError(code, os.strerror(code))
    return True
