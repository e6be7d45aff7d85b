"""A real PostgreSQL server for tests: in a temporary directory, on a unix socket, gone afterwards.

It refuses to run as root, so root runs it as another user. `server()` is a context manager; `schema(url)`
gives each test a schema of its own in it, which costs a few milliseconds where a database would cost fifty.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import psycopg

DEADLINE_S = 60.0


class PostgresUnavailableError(RuntimeError):
    """The world lacks something: the message says what, and how to mend it."""


def programs() -> Path:
    """Where `initdb` and `postgres` lie: Debian keeps them off the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: path.parts[-3])
    on_path = shutil.which("postgres")
    if found:
        return found[-1].parent
    if on_path:
        return Path(on_path).parent
    raise PostgresUnavailableError(
        "PostgreSQL is not installed, and the tests need it: scripts/setup.sh dev says what to type"
    )


def _user() -> pwd.struct_passwd | None:
    """Whom to run it as: None for ourselves."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise PostgresUnavailableError(
        "root cannot run PostgreSQL, and there is neither a user postgres nor nobody"
    )


class Server:
    """``url`` is of its database; ``stop`` and ``start`` are for tests in which it goes away."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"postgresql://pointsman@/postgres?host={root}"
        self._bin = programs()
        user = _user()
        as_user = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
        self._user: dict[str, Any] = as_user
        if user is not None:
            os.chown(root, user.pw_uid, user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        make = ["initdb", "-D", "data", "-U", "pointsman", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        with (root / "initdb.log").open("wb") as log:
            done = self._popen([self._bin / make[0], *make[1:]], log)
        if done.wait(DEADLINE_S):
            raise PostgresUnavailableError(f"initdb failed:\n{(root / 'initdb.log').read_text()}")

    def _popen(self, command: Sequence[str | Path], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log, **self._user)

    def start(self) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.root), "fsync": "off",
                    "max_connections": "20", "shared_buffers": "16MB"}  # fmt: skip
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.root / "postgres.log").open("ab") as log:
            self._process = self._popen([self._bin / "postgres", "-D", "data", *options], log)
        deadline, process = time.monotonic() + DEADLINE_S, self._process
        while True:
            try:
                psycopg.connect(self.url).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    said = (self.root / "postgres.log").read_text()
                    raise PostgresUnavailableError(f"PostgreSQL did not start: {error}\n{said}") from error
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """At once (SIGQUIT), as after a power cut: connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(DEADLINE_S)
            self._process = None


@contextlib.contextmanager
def server() -> Iterator[Server]:
    # Not pytest's own directory: it is closed to the user that PostgreSQL runs as.
    root = Path(tempfile.mkdtemp(prefix="pointsman-pg-"))
    made: Server | None = None
    try:
        made = Server(root)
        made.start()
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(root, ignore_errors=True)


def schema(url: str) -> str:
    """The URL of a new, empty schema."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return f"{url}&options=-csearch_path%3D{name}"
