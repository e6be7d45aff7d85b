"""`python -m services.tmux.launcher <session dir>`: the window of an agent that connects by itself.

Such an agent (``--sdk-url``) needs no bridge, only somebody who starts it with its token in the environment,
outlives this window and keeps its exit code: the bridge's keeper does just that (run as a program; its
files are described there). This launcher hands it the launch file, shows in the window where the
conversation is to be found and what the agent says on stderr, and ends with the agent. Killed and started
again, it finds the agent running.

Exit codes: 0 the agent has ended, or SIGTERM/SIGHUP; 2 launch.json cannot be read; 4 the keeper did not start
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 0.25
SHOWN_BYTES = 16 * 1024
KEEPER = Path(__file__).resolve().parents[1] / "bridge" / "keeper.py"


def main(arguments: list[str]) -> int:
    """See the module."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGHUP, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the window is not meant for us
    folder = Path(arguments[0]).resolve()
    try:
        launch: dict[str, Any] = json.loads((folder / "launch.json").read_text("utf-8"))
        number = str(int(launch["process"]))
        spec = keeper_spec(launch)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{folder}/launch.json cannot be used: {error}", file=sys.stderr)
        return 2
    if not (folder / f"pid.{number}").exists() and not (folder / f"exit.{number}").exists():
        # A clean environment: what the agent may see stands in the launch file alone.
        mark = {"POINTSMAN_SESSION_UID": str(launch["uid"])}  # by which the watchdog knows whose memory it is
        started = subprocess.run(
            [sys.executable, "-I", "-S", str(KEEPER), str(folder), number], input=spec, env=mark, check=False
        )
        if started.returncode:
            print(
                f"the agent could not be started: its keeper ended with {started.returncode}", file=sys.stderr
            )
            return 4
    name = launch["session"]
    print(
        f"{name}: the agent talks to Pointsman by itself.\n\nFollow it:  pointsman watch {name}\n", flush=True
    )
    return _follow(folder, number)


def keeper_spec(launch: dict[str, Any]) -> bytes:
    """What the keeper reads on stdin: count, argv, cwd and environment, separated by NUL."""
    env = {**launch["env"], "CLAUDE_CODE_SESSION_ACCESS_TOKEN": launch["token"]}
    argv = [str(word) for word in launch["argv"]]
    fields = [str(len(argv)), *argv, launch["cwd"], *(f"{key}={value}" for key, value in env.items())]
    if any("\0" in field for field in fields):
        raise ValueError("a NUL character in argv, cwd or env")
    return "\0".join(fields).encode("utf-8", "surrogateescape")


def _follow(folder: Path, number: str) -> int:
    """Show the agent's stderr until it has ended."""
    errors, ended = folder / f"err.{number}", folder / f"exit.{number}"
    shown = max(0, errors.stat().st_size - SHOWN_BYTES) if errors.exists() else 0
    while True:
        over = ended.exists() or not folder.exists()
        if errors.exists():
            with errors.open("rb") as file:
                file.seek(shown)
                piece = file.read(SHOWN_BYTES)
            shown += len(piece)
            text = piece.decode("utf-8", "replace")
            sys.stdout.write("".join(c if c == "\n" or c.isprintable() else " " for c in text))
            sys.stdout.flush()
            if piece:
                continue
        if over:
            break
        time.sleep(POLL_S)
    print(f"\nThe agent has ended ({_code(ended)}).", flush=True)
    return 0


def _code(ended: Path) -> str:
    try:
        return f"exit code {json.loads(ended.read_bytes())['code']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "exit code unknown"


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
