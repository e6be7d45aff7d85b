"""A broker process: started on a leash, seen to listen, ended within two seconds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil
import trio

from bus.acl import User, acl_file, digest_passwords, mosquitto_passwords
from services.broker import core, leash
from services.broker.core import Kind, Listener, Settings

LISTEN_S = 15.0  # amqtt needs a second to import on a busy machine
END_S = 1.0  # from SIGTERM to SIGKILL
POLL_S = 0.02
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"  # Debian keeps mosquitto where only root's PATH leads
QUEUES_BYTES = 4 * core.MAX_QUEUED_BYTES
SETTLED_S = 60.0  # after its start every snapshot has been said again
LOOK_S = 5.0
TAIL = 2000  # bytes of its output that are told when it dies


def find_mosquitto() -> str | None:
    """mosquitto's program, also where it is not on PATH."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=SBIN)


def prepare(
    directory: Path,
    kind: Kind,
    listeners: tuple[Listener, ...],
    passwords: Mapping[str, str],
    users: list[User],
    *,
    root: str,
    node: str,
) -> list[str]:
    """Write the broker's files (0600) and return its command line."""
    words, rules = write_users(directory, kind, passwords, users, root=root, node=node)
    settings = Settings(listeners, str(words), str(rules), os.geteuid() == 0)
    if kind is Kind.MOSQUITTO:
        program = find_mosquitto()
        if program is None:
            raise core.ChoiceError("mosquitto is not installed any more: `apt-get install mosquitto`")
        path = _write(directory / "mosquitto.conf", core.mosquitto_conf(settings))
        return [program, "-c", str(path)]
    path = _write(directory / "amqtt.json", core.amqtt_conf(settings))
    return [sys.executable, "-m", "services.broker.amqtt_server", str(path)]


def write_users(
    directory: Path, kind: Kind, passwords: Mapping[str, str], users: list[User], *, root: str, node: str
) -> tuple[Path, Path]:
    """Write who may come (0600), and, for mosquitto, what each may do; `Child.reload` makes it hold."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    words, rules = directory / f"{kind}.passwords", directory / "mosquitto.acl"
    if kind is Kind.MOSQUITTO:
        _write(words, mosquitto_passwords(passwords))
        _write(rules, acl_file(root, node, users))
    else:
        _write(words, digest_passwords(passwords))
    return words, rules


def _write(path: Path, text: str) -> Path:
    beside = path.with_suffix(path.suffix + ".new")
    beside.unlink(missing_ok=True)
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return beside.replace(path)


class Child:
    """One broker process. `start` it in the main thread of the process that shall not be outlived."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @classmethod
    def start(cls, argv: list[str], output: Path) -> Child:
        """``output`` takes what it prints; it is cut at each start."""
        package_root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": package_root}
        with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            process = subprocess.Popen(  # not trio's: that starts it from a thread, whose end would kill it
                [sys.executable, "-S", "-E", leash.__file__, str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for us, and we end it
            )
        return cls(process, output)

    def rss_bytes(self) -> int:
        """The memory that it holds; 0 when it is gone."""
        try:
            return psutil.Process(self._process.pid).memory_info().rss
        except psutil.Error:
            return 0

    def output(self) -> str:
        """The end of what it printed."""
        try:
            return self._output.read_bytes()[-TAIL:].decode("utf-8", "replace").strip()
        except OSError:
            return ""

    async def listening(self, listeners: tuple[Listener, ...]) -> bool:
        """Wait until it accepts connections; False if it ended or did not within `LISTEN_S`."""
        with trio.move_on_after(LISTEN_S):
            # The first alone: without the others it would not go on, and a WebSocket one logs such a visit.
            while self._process.poll() is None and not _accepts(listeners[0]):  # noqa: ASYNC110  # no event
                await trio.sleep(POLL_S)
            return self._process.poll() is None
        return False

    async def ended(self) -> int:
        """Wait for its end. Returns the exit code (negative: the signal)."""
        try:
            watch = os.pidfd_open(self._process.pid)
        except (AttributeError, OSError):  # no Linux, or gone already
            while self._process.poll() is None:  # noqa: ASYNC110  # no event here
                await trio.sleep(POLL_S)
            return self._process.wait()
        try:
            await trio.lowlevel.wait_readable(watch)
        finally:
            os.close(watch)
        return self._process.wait()

    async def end(self) -> None:
        """SIGTERM, and SIGKILL after `END_S`. May be called again."""
        with trio.CancelScope(shield=True):
            if self._process.poll() is None:
                self._process.terminate()
                with trio.move_on_after(END_S):
                    await self.ended()
            self.kill()

    def reload(self) -> None:
        """Have mosquitto read its users and rules again. They hold for connections that stand as well: who is
        no user any more is cut off. It is done before anybody who hears of it, over the bus, can come: that
        word of ours is read after the signal.
        """
        self.kill(signal.SIGHUP)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal now; SIGKILL waits for the end."""
        if self._process.poll() is None:
            self._process.send_signal(number)
            if number == signal.SIGKILL:
                self._process.wait()


async def too_much(held: Callable[[], int]) -> int:
    """Wait until a broker holds more than it may; ``held`` is how much it holds now, in bytes. Returns that.

    Whoever may subscribe can come as any number of clients, each with a queue that the broker keeps while it
    is away; operators and devices can have things retained. mosquitto bounds each queue, and not all of them
    together; amqtt bounds nothing. An empty broker is told again all that counts, so that ending it mends it.
    The bound: twice what it held when everybody had come, and room for queues.
    """
    await trio.sleep(SETTLED_S)
    bound = 2 * held() + QUEUES_BYTES
    while (now := held()) <= bound:  # noqa: ASYNC110  # no event here
        await trio.sleep(LOOK_S)
    return now


def _accepts(listener: Listener) -> bool:
    try:
        with socket.create_connection((listener.host, listener.port), timeout=0.5):
            return True
    except OSError:
        return False
