"""A whole Pointsman in a home of its own, with scripted agents: for `make demo` and the README's picture."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
START_S = 90.0  # usually two or three; a first start on a cold disk or a busy machine takes longer
STOP_S = 15.0

SESSIONS = {
    "greeter": "SAY Hello! I am a scripted model. I have done my turn, and it cost a little made-up money.",
    "talker": "STREAM 3000 200 ;; SAY I have talked for ten minutes.",
    "asker": "BASH echo 'you said yes' > answer.txt ;; SAY Thank you: see answer.txt in my directory.",
}


class DemoError(Exception):
    """The world's fault: the stack did not come up. The text is what it said."""


def scripted_claude(folder: Path) -> Path:
    """Write the program that stands in for `claude`. Returns its path."""
    claude, agent = folder / "scripted-claude", Path(__file__).with_name("agent.py")
    run = f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(agent))}"
    claude.write_text(f'#!/bin/sh\nexec {run} "$@"\n')
    claude.chmod(0o755)
    return claude


class DemoStack:
    """Started on entering, ended and removed on leaving, sessions included."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pointsman-demo-"))
        self.config = self.folder / "config.toml"
        self._log = self.folder / "supervisord.log"
        self._work = self.folder / "work"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")},
            "POINTSMAN_CONFIG": str(self.config),
            "CLAUDE_CONFIG_DIR": str(self.folder / "claude"),
        }
        self._supervisord: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DemoStack:
        self._write_files()
        with self._log.open("wb") as log:
            self._supervisord = subprocess.Popen(
                [str(BIN / "supervisord"), "-c", str(ROOT / "supervisord.conf")],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the demo's to pass on, after the sessions have ended
            )
        try:
            self._wait(lambda: self.pointsman("health", "--json").returncode == 0, "every service online")
        except BaseException:  # end what was started, then go on raising
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _write_files(self) -> None:
        self._work.mkdir()
        claude = scripted_claude(self.folder)
        self.config.write_text(
            f'[node]\nname = "demo"\nhome = "{self.folder / "home"}"\n[agent]\nclaude = "{claude}"\n'
            "[approvals]\ntimeout_s = 0\n"  # the newcomer may take a minute to read
        )

    def _end(self) -> None:
        if self._supervisord is not None:
            self.pointsman("end", "--all")
            self._supervisord.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._supervisord.wait(STOP_S)
            if self._supervisord.poll() is None:
                self._supervisord.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._supervisord is not None and self._supervisord.poll() is None

    def pointsman(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The ``pointsman`` command on this stack."""
        return subprocess.run(
            [str(BIN / "pointsman"), *arguments],
            env={**self._environment, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )

    def show(self, *arguments: str) -> None:
        """What the command shows, where the demo itself is shown: it is as wide, and has its colours."""
        subprocess.run([str(BIN / "pointsman"), *arguments], env=self._environment, check=False)

    def open_sessions(self) -> None:
        """One that answers, one that talks, one that asks; returns when the last waits for its approval.

        Raises `DemoError` when one cannot be opened.
        """
        for name, prompt in SESSIONS.items():
            (self._work / name).mkdir()
            made = self.pointsman("new", name, "--cwd", str(self._work / name), "--prompt", prompt)
            if made.returncode:
                raise DemoError(made.stderr or made.stdout)
        self._wait(
            lambda: bool(json.loads(self.pointsman("approvals", "--json").stdout or "[]")), "a question"
        )

    def wait_for_answer(self) -> None:
        """Until the session that asked has ended its turn."""

        def ended() -> bool:
            states = json.loads(self.pointsman("ls", "--json").stdout or "[]")
            return any(s["session"] == "asker" and s["status"] == "waiting_input" for s in states)

        self._wait(ended, "the end of its turn")

    def _wait(self, probe: Callable[[], bool], what: str) -> None:
        """Raises `DemoError` with what the stack said."""
        end = time.monotonic() + START_S
        while not probe():
            if time.monotonic() > end or not self.running:
                raise DemoError(f"{self._log.read_text(errors='replace')}\nThere was not: {what}.")
            time.sleep(0.2)
