"""What the controller sees and does outside of itself: tmux, session directories, processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket as socketlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import trio

from services._process import hook_settings
from services._process.errors import HomeError
from services._process.home import Home
from services._process.lock import is_held
from services.tmux import agents, cli, screen
from services.tmux.model import AgentIs, Exit, Found, Pane, Record, Seen

TMUX_TIMEOUT_S = 10.0
VERSION_TIMEOUT_S = 30.0  # node programs take a second; a cold disk more
SCREEN_S = 10.0  # a busy machine draws late
PUT_BACK_S = 0.5  # it comes with the picture that shows the end of the turn
BEFORE_ENTER_S = 0.5  # sooner, the screen takes Enter for a part of the paste
WINDOW = Path(__file__).with_name("screen_window.py")
ROOT = Path(__file__).resolve().parents[2]  # where the packages `bus` and `services` lie


class TmuxError(Exception):
    """The world's fault: tmux is missing, or did not do what it was told. The text is for the user."""


class World:
    """tmux, session directories, processes. Raises `TmuxError` and OSError."""

    def __init__(
        self,
        home: Home,
        environ: Mapping[str, str],
        node: str,
        claude: str,
        ingest_port: int,
        hooks_port: int = 6182,
    ) -> None:
        self.home = home
        self.environ = environ
        self.node = node
        self.claude = claude
        self.ingest_port = ingest_port
        self.hooks_port = hooks_port
        self._versions: dict[tuple[str, int, int], str] = {}

    # before a session is opened

    async def check(self, cwd: str) -> Found:
        """Directory, tmux and agent, as they are now."""
        problem = _directory_problem(cwd)
        try:
            await self._tmux([*cli.version(self.home.tmux_socket)])
        except (TmuxError, HomeError) as error:
            return Found(cwd_problem=problem, tmux_problem=str(error))
        path = shutil.which(self.claude, path=self.environ.get("PATH", os.defpath))
        if path is None:
            return Found(cwd_problem=problem, agent_problem=_agent_problem(self.claude))
        path = os.path.abspath(path)  # noqa: PTH100, ASYNC240  # its shape alone
        try:
            version = await self._version(path)
        except OSError as error:
            return Found(cwd_problem=problem, agent_problem=f"{path} cannot be run: {error.strerror}")
        return Found(cwd_problem=problem, program=path, version=version)

    async def _version(self, path: str) -> str:
        """What ``<path> --version`` says, asked once for each program file."""
        status = os.stat(path)  # noqa: PTH116  # microseconds
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._versions:
            environment = agents.environment(self.environ, self.node, "version")
            code, output, error = await _run([path, "--version"], environment, VERSION_TIMEOUT_S)
            if code != 0:
                return (output or error).strip()[:200] or f"no answer (exit code {code})"
            self._versions[key] = output.strip()[:200]
        return self._versions[key]

    # tmux

    async def panes(self) -> list[Pane]:
        """The panes with our mark."""
        try:
            return cli.parse_panes(await self._tmux(cli.list_panes(self.home.tmux_socket)))
        except TmuxError as error:
            if cli.says_no_server(str(error)):
                self._remove_stale_socket()
                return []
            raise

    async def open(self, record: Record, pane: str | None) -> None:
        """Write the launch file and have its program run in the window."""
        folder = self.folder(record.uid)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if record.process > 1:
            self.signal(record.uid, record.process - 1, "KILL")  # two on one conversation would fork it
        port = self.home.endpoints().get("ingest", {}).get("port", self.ingest_port)
        settings = folder / "settings.json"
        launch = agents.launch(record, self.environ, self.node, int(port), str(settings))
        _write_private(folder / "launch.json", msgspec.json.encode(launch))
        module = "services.tmux.launcher" if record.asked.kind == "sdk-url" else "services.bridge"
        # Safe path: the agent's directory must not be able to shadow our modules.
        mark = f"POINTSMAN_SESSION_UID={record.uid}"  # whose memory it is
        program = [
            "env",
            mark,
            "PYTHONSAFEPATH=1",
            f"PYTHONPATH={ROOT}",
            sys.executable,
            "-m",
            module,
            str(folder),
        ]
        if record.asked.kind == "interactive":
            self._write_hooks(folder, settings, record.token)
            program = ["env", mark, sys.executable, "-I", "-S", str(WINDOW), str(folder)]
        more = {"uid": record.uid, "process": record.process, "program": program, "cwd": record.asked.cwd}
        socket = self.home.tmux_socket
        if pane is not None:
            await self._tmux(cli.respawn(socket, pane=pane, **more))  # type: ignore[arg-type]  # one dict for both
            return
        more["columns"] = cli.SCREEN_COLUMNS if record.asked.kind == "interactive" else cli.COLUMNS
        try:
            await self._tmux(cli.new_window(socket, name=record.session, **more))  # type: ignore[arg-type]  # as above
        except TmuxError as error:
            if "duplicate session" not in str(error):
                raise
            name = f"{record.session}-{record.uid[-6:].lower()}"  # somebody's own window bears the name
            await self._tmux(cli.new_window(socket, name=name, **more))  # type: ignore[arg-type]  # as above

    def _write_hooks(self, folder: Path, settings: Path, token: str) -> None:
        """The settings that an interactive agent is started with beside the user's own."""
        port = self.home.endpoints().get("ingest", {}).get("hooks_port", self.hooks_port)
        url, secret = hook_settings.url(int(port)), folder / hook_settings.TOKEN_FILE
        _write_private(secret, msgspec.json.encode({"url": url, "token": token}))
        table = hook_settings.hooks(url, token, self.home.path, secret)
        _write_private(settings, msgspec.json.encode({"hooks": table}))

    # screens

    async def screen(self, pane: str) -> str:
        """What stands there now."""
        return await self._tmux(cli.capture(self.home.tmux_socket, pane))

    async def press(self, pane: str, key: str) -> None:
        await self._tmux(cli.press(self.home.tmux_socket, pane, key))

    async def interrupt(self, pane: str) -> None:
        """Escape. Before the agent's first word it puts the prompt back into the input line, where it would
        keep every later one from being typed: what was not there before is taken out again.
        """
        empty = screen.takes_text(await self.screen(pane))
        await self.press(pane, "Escape")
        if not empty or not await self._until(pane, lambda shown: not screen.works(shown)):
            return
        if await self._until(pane, lambda shown: bool(screen.draft(shown)), PUT_BACK_S):
            await self.press(pane, "C-c")  # clears it all; in an empty line it would only ask whether to exit
            await self._until(pane, lambda shown: not screen.draft(shown))

    async def type(self, pane: str, uid: str, text: str) -> str | None:
        """Paste a text into the empty input line and send it off. Returns why not, if it can not be.

        The screen is looked at before each step: what falls into a dialog would answer it.
        """
        shown = await self.screen(pane)
        if screen.dialog(shown) is not None:
            return "a dialog stands on its screen"
        if not screen.holds(shown, text):  # else a controller died before it sent it off
            if screen.draft(shown) != "":
                return "a half-written line stands on its screen"
            load, put = cli.paste(self.home.tmux_socket, pane, f"pointsman-{uid}")
            await self._tmux(load, screen.typeable(text).encode())
            await self._tmux(put)
        if not await self._until(pane, lambda shown: bool(screen.draft(shown))):
            return "its screen did not take the text"
        await trio.sleep(BEFORE_ENTER_S)
        if screen.dialog(await self.screen(pane)) is not None:
            return "a dialog came up on its screen"
        await self.press(pane, "Enter")
        if not await self._until(pane, lambda shown: not screen.draft(shown)):
            return "its screen did not send the text off"
        return None

    async def _until(self, pane: str, holds: Callable[[str], bool], within_s: float = SCREEN_S) -> bool:
        with trio.move_on_after(within_s):
            while not holds(await self.screen(pane)):  # noqa: ASYNC110  # tmux has no event for it
                await trio.sleep(0.1)
            return True
        return False

    async def close(self, window_session: str) -> None:
        with suppress(TmuxError):  # already gone
            await self._tmux(cli.kill_window(self.home.tmux_socket, window_session))

    async def hint(self, hints: Mapping[str, str]) -> None:
        await self._tmux(cli.set_hints(self.home.tmux_socket, hints))

    async def clear(self, uid: str, window_session: str | None) -> None:
        """Remove a session's window and directory, and the socket of a server that has ended with it."""
        if window_session is not None:
            await self.close(window_session)
        await trio.to_thread.run_sync(lambda: shutil.rmtree(self.folder(uid), ignore_errors=True))
        with suppress(TmuxError):
            await self.panes()

    def _remove_stale_socket(self) -> None:
        """tmux leaves its socket behind when it ends; nobody but us starts a server there."""
        socket = self.home.tmux_socket
        if socket is None:
            folder = Path(self.environ.get("TMUX_TMPDIR") or "/tmp") / f"tmux-{os.getuid()}"  # noqa: S108  # tmux(1)
            socket = folder / "pointsman"
        with suppress(OSError), socketlib.socket(socketlib.AF_UNIX) as probe:
            try:
                probe.connect(str(socket))
            except ConnectionRefusedError:  # nobody listens: not even a server that has just been started
                socket.unlink()

    async def _tmux(self, argv: Sequence[str], stdin: bytes = b"") -> str:
        environment = cli.child_environment(self.environ)
        try:
            code, output, error = await _run(argv, environment, TMUX_TIMEOUT_S, stdin)
        except FileNotFoundError:
            raise TmuxError(f"tmux is not installed: {cli.INSTALL}") from None
        except OSError as error_:
            raise TmuxError(f"tmux cannot be run: {error_.strerror}") from None
        if code is None:
            raise TmuxError(f"tmux did not answer within {TMUX_TIMEOUT_S:.0f} s")
        if code != 0:
            raise TmuxError(f"tmux: {error.strip() or output.strip() or f'exit code {code}'}")
        return output

    # session directories and processes

    def folder(self, uid: str) -> Path:
        return self.home.sessions / uid

    def look(self, records: Iterable[Record], panes: Iterable[Pane]) -> dict[str, Seen]:
        """All sessions of which there is a record, a window or a directory."""
        by_uid = {pane.uid: pane for pane in panes}
        processes = {record.uid: record.process for record in records}
        folders = {path.name for path in self.home.sessions.iterdir()}
        seen: dict[str, Seen] = {}
        for uid in processes.keys() | by_uid.keys() | folders:
            process = processes.get(uid, 1)
            there = uid in folders
            agent, ended = self._agent(uid, process) if there else (AgentIs.NOT_STARTED, None)
            seen[uid] = Seen(process, by_uid.get(uid), agent, ended, there)
        return seen

    def _agent(self, uid: str, process: int) -> tuple[AgentIs, Exit | None]:
        ended = _exit_file(self.folder(uid) / f"exit.{process}")
        pid = self._pid(uid, process)
        if pid is None:
            return AgentIs.NOT_STARTED, ended
        return (AgentIs.ALIVE if self._is_agent(uid, process, pid) else AgentIs.GONE), ended

    def _pid(self, uid: str, process: int) -> int | None:
        try:
            return int((self.folder(uid) / f"pid.{process}").read_bytes())
        except (OSError, ValueError):
            return None

    def _is_agent(self, uid: str, process: int, pid: int) -> bool:
        """Whether ``pid`` is still the agent, and not a process that was given its number: the agent's stdout
        is our file; and while its keeper, its parent, waits for it, its number cannot be given again.
        """
        folder = self.folder(uid)
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        with suppress(OSError):
            if Path(f"/proc/{pid}/fd/1").samefile(folder / f"out.{process}"):
                return not _is_zombie(pid)
        with suppress(OSError):
            return is_held(folder / f"keep.{process}") and not (folder / f"exit.{process}").exists()
        return False

    def signal(self, uid: str, process: int, name: str) -> bool:
        """Signal the agent's process group. Returns whether there was an agent to be signalled."""
        pid = self._pid(uid, process)
        if pid is None or not self._is_agent(uid, process, pid):
            return False
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) == pid:  # the keeper made it so; never signal a group that is not its own
                os.killpg(pid, signal.Signals[f"SIG{name}"])
                return True
        return False

    def end_orphan(self, uid: str) -> None:
        """End every agent of a directory that nobody knows any more."""
        for path in self.folder(uid).glob("pid.*"):
            if path.suffix[1:].isdecimal():
                self.signal(uid, int(path.suffix[1:]), "KILL")


def _directory_problem(cwd: str) -> str | None:
    path = Path(cwd)
    try:
        if not path.exists():
            return f"the directory {cwd} is not there"
        if not path.is_dir():
            return f"{cwd} is not a directory"
    except OSError as error:
        return f"the directory {cwd} cannot be used: {error.strerror}"
    return None if os.access(path, os.R_OK | os.X_OK) else f"the directory {cwd} may not be entered"


def _agent_problem(claude: str) -> str:
    if "/" in claude:
        what = "cannot be executed" if Path(claude).exists() else "is not there"
        return f"the agent program {claude} {what}: correct agent.claude in the configuration"
    return (
        f"the program {claude!r} was not found on the PATH with which Pointsman was started: install Claude "
        "Code (https://claude.com/claude-code), or set agent.claude to its path"
    )


def _exit_file(path: Path) -> Exit | None:
    try:
        return Exit(msgspec.json.decode(path.read_bytes(), type=Exit).code)
    except OSError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Exit(None)


def _is_zombie(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False


def _write_private(path: Path, content: bytes) -> None:
    """Replace a file, 0600 from its first moment."""
    beside = path.with_name(f".{path.name}.new")
    with suppress(FileNotFoundError):
        beside.unlink()
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(content)
    beside.replace(path)


async def _run(
    argv: Sequence[str], environment: Mapping[str, str], timeout_s: float, stdin: bytes = b""
) -> tuple[int | None, str, str]:
    """Exit code (None: killed for taking too long), stdout, stderr. Raises OSError if it cannot start."""
    with trio.move_on_after(timeout_s):
        done = await trio.run_process(
            list(argv),
            env=dict(environment),
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            deliver_cancel=_kill,
        )
        return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    return None, "", ""


async def _kill(process: trio.Process) -> None:
    process.kill()
