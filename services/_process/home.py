"""The home: one directory, 0700, that holds everything a node keeps.

Directories are made when they are first asked for, so that looking at a home (as ``pointsman`` does) makes
nothing. Files are replaced whole (written beside, then renamed), never half.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import secrets as random
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from services._process.errors import HomeError

METRICS_TARGETS = "prometheus-targets.json"
MAX_SOCKET_PATH = 107  # bytes: sun_path of Linux (unix(7)) without its final zero
SECRET_BYTES = 32

Endpoints = dict[str, dict[str, Any]]
"""Section → key → value: ``{"bus": {"host", "port", "ws_port"}, …, "metrics": {service: port}}``."""


class Home:
    """A node's directory. Raises `HomeError` where it is somebody else's, or open to others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            self._check(path)

    def __repr__(self) -> str:
        return f"Home({str(self.path)!r})"

    @property
    def is_default(self) -> bool:
        """Is this the one home that a user has without choosing? It alone uses ``tmux -L pointsman``.

        The user's directory comes from the password database: two values of HOME must not share a server.
        """
        own = Path(pwd.getpwuid(os.getuid()).pw_dir)
        return self.path.resolve() == (own / ".local/state/pointsman").resolve()

    @property
    def secrets(self) -> Path:
        """Keys and passwords; files in it are 0600."""
        return self._directory("secrets")

    @property
    def logs(self) -> Path:
        return self._directory("logs")

    @property
    def run(self) -> Path:
        """Locks and what lives only while something runs."""
        return self._directory("run")

    @property
    def sessions(self) -> Path:
        """One directory per session's uid."""
        return self._directory("sessions")

    @property
    def tmux_socket(self) -> Path | None:
        """The socket for ``tmux -S``; None for the default home, which uses ``tmux -L pointsman``."""
        return None if self.is_default else self.socket("tmux.sock")

    def socket(self, name: str) -> Path:
        """Where a Unix socket of this name goes."""
        path = self._made() / name
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise HomeError(
                f"the home {self.path} is too long for a socket in it (a socket's path has at most "
                f"{MAX_SOCKET_PATH} bytes): choose a shorter POINTSMAN_HOME"
            )
        return path

    def store(self, service: str) -> Path:
        """A service's database."""
        return self._made() / f"{service}.sqlite"

    # secrets

    def bus_password_file(self, username: str) -> Path:
        """The file that holds a bus user's password alone."""
        return self.path / "secrets" / "bus" / username

    def bus_password(self, username: str) -> str:
        """Raises `HomeError` when the broker has not made this user (yet)."""
        path = self.bus_password_file(username)
        try:
            return path.read_text("utf-8").strip()
        except OSError as error:
            raise HomeError(
                f"no password for the bus user {username!r} ({path}: {error.strerror}): has Pointsman been "
                "started with this home?"
            ) from error

    def write_secret(self, name: str, value: str) -> Path:
        """Keep a secret (0600) under ``secrets/<name>``; ``name`` may have directories. Durable on return."""
        path = self.secrets / name
        _make_private(path.parent, self.path)
        _replace(path, value.encode())
        return path

    def read_or_make_secret(self, name: str, make: Callable[[], str] | None = None) -> str:
        """The secret of this name, made (256 random bits, or ``make()``) if it is not there.

        Two processes that ask at once get the same.
        """
        path = self.secrets / name
        with self.locked("secrets"):
            try:
                text = path.read_text("utf-8")
            except FileNotFoundError:
                text = random.token_urlsafe(SECRET_BYTES) if make is None else make()
                self.write_secret(name, text)
        return text

    # endpoints

    def endpoints(self) -> Endpoints:
        """Where the services listen; empty if nothing has been started. An unreadable file counts as empty:
        it is written anew at the next start.
        """
        try:
            found = msgspec.json.decode((self.path / "endpoints.json").read_bytes(), type=Endpoints)
        except (OSError, msgspec.DecodeError):
            return {}
        return found

    def update_endpoints(self, section: str, values: Mapping[str, Any]) -> None:
        """Set these keys of a section; a value of None takes the key away. Safe between processes."""
        with self.locked("endpoints"):
            found = self.endpoints()
            merged = {**found.get(section, {}), **values}
            found[section] = {key: value for key, value in merged.items() if value is not None}
            _replace(self.path / "endpoints.json", msgspec.json.format(msgspec.json.encode(found)) + b"\n")

    def update_metrics_targets(self, node: str, host: str) -> None:
        """Write ``prometheus-targets.json`` (Prometheus's file_sd) from the endpoints: a port that was taken
        is another's, so no fixed list is right.
        """
        with self.locked("endpoints"):
            groups = [
                {"targets": [f"{host}:{port}"], "labels": {"service": service, "node": node}}
                for service, port in sorted(self.endpoints().get("metrics", {}).items())
            ]
            _replace(self.path / METRICS_TARGETS, msgspec.json.format(msgspec.json.encode(groups)) + b"\n")

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold a lock of this home for a moment (it blocks: only for what takes milliseconds)."""
        lock = os.open(self.run / f"{name}.flock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    # making

    def _made(self) -> Path:
        if not self.path.exists():
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise HomeError(
                    f"the home {self.path} cannot be made: {error.strerror}; set POINTSMAN_HOME elsewhere"
                ) from error
            self._check(self.path)
        return self.path

    def _directory(self, name: str) -> Path:
        path = self._made() / name
        _make_private(path, self.path)
        return path

    @staticmethod
    def _check(path: Path) -> None:
        info = path.stat()
        if not stat.S_ISDIR(info.st_mode):
            raise HomeError(f"the home {path} is not a directory")
        if info.st_uid != os.getuid():
            try:
                owner = pwd.getpwuid(info.st_uid).pw_name
            except KeyError:
                owner = f"uid {info.st_uid}"
            raise HomeError(f"the home {path} belongs to {owner}: set POINTSMAN_HOME to one of your own")
        if info.st_mode & 0o022:
            raise HomeError(f"others may write into the home {path}: do `chmod go-w {path}` and start again")


def _make_private(path: Path, base: Path) -> None:
    """Make ``path`` and what is missing between it and ``base``, each 0700."""
    for step in reversed([path, *(parent for parent in path.parents if parent.is_relative_to(base))]):
        try:
            step.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise HomeError(f"{step} cannot be made: {error.strerror}") from error


def _replace(path: Path, content: bytes) -> None:
    """Write a file (0600) so that a reader sees the old content or the new one, also after a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:  # tidy up and go on raising
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
