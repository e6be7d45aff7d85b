"""`python -I -S screen_window.py <session dir>`: the window of an interactive session.

Runs Claude Code on this very terminal, in a process group of its own in the foreground, and writes down what
the tmux controller looks at, in the same files as the bridge's keeper: the lock `keep.<N>` while this runs,
`pid.<N>` before the agent becomes itself, `exit.<N>` when it has ended. Ignores SIGHUP, SIGINT and SIGTERM:
it ends with its agent, which gets them itself.

One exists for each session, so imports are few.
"""

# ruff: noqa: PTH100, PTH110  # pathlib is an import that this process does not need

from __future__ import annotations

import fcntl
import json
import os  # noqa: TID251  # a program of its own
import signal
import sys
import time

OVER, BAD_FILE = 0, 2


def write_file(path: str, data: bytes) -> None:
    """A reader sees all of it or nothing."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, data)
    os.close(fd)
    os.rename(temporary, path)  # noqa: PTH104  # as above


def become_agent(folder: str, launch: dict[str, object], number: str) -> str:
    """In the child. Returns why, if it fails."""
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    write_file(f"{folder}/pid.{number}", b"%d\n" % os.getpid())
    argv = [str(word) for word in launch["argv"]]  # type: ignore[attr-defined]  # a list, as the controller wrote it
    env = {**launch["env"], "TERM": os.environ.get("TERM", "screen-256color")}  # type: ignore[dict-item]  # as above
    try:
        os.chdir(str(launch["cwd"]))
    except OSError as error:
        return f"cannot start the agent in {launch['cwd']}: {error.strerror}"
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTTOU, signal.SIGPIPE):
        signal.signal(name, signal.SIG_DFL)
    try:
        os.execve(argv[0], argv, env)  # noqa: S606  # no shell is the point
    except OSError as error:
        return f"cannot start the agent {argv[0]}: {error.strerror}"


def main(folder: str) -> int:
    """See the module."""
    for name in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGTTOU):
        signal.signal(name, signal.SIG_IGN)
    folder = os.path.abspath(folder)
    try:
        with open(f"{folder}/launch.json", encoding="utf-8") as file:
            launch = json.load(file)
        number = str(int(launch["process"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{folder}/launch.json cannot be used: {error}", file=sys.stderr)  # noqa: T201  # its window
        return BAD_FILE
    lock = os.open(f"{folder}/keep.{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return OVER
    if os.path.exists(f"{folder}/pid.{number}") or os.path.exists(f"{folder}/exit.{number}"):
        return OVER
    child = os.fork()
    if child == 0:
        text = become_agent(folder, launch, number)
        os.write(2, f"pointsman: {text}\n".encode())
        os._exit(127)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_file(f"{folder}/exit.{number}", b'{"code":%d,"at":"%b"}' % (code, at.encode()))
    return OVER


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
