"""Small agents for the bridge's tests, run as `python -I -S agents.py <name>`: each reads lines and does what
they say."""

# pathlib would be an import for nothing, many times over:
# ruff: noqa: PTH109, PTH110, PTH115, PTH208

import json
import os
import signal
import sys
import time


def out(frame: dict[str, object]) -> None:
    os.write(1, json.dumps(frame).encode() + b"\n")


def obedient() -> None:
    """Says what it got; with `count` and `size` (and `pause_s`) that many items. `do` may be stderr (size),
    half, exit (code), deaf.
    """
    out({"type": "hello", "pid": os.getpid(), "secret": os.environ.get("SECRET"), "cwd": os.getcwd()})
    buffer = b""
    while data := os.read(0, 1 << 20):
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            try:
                frame = json.loads(line)
            except ValueError:
                out({"type": "bad", "line": repr(line[:80])})
                sys.exit(1)
            do = frame.get("do")
            for number in range(frame.get("count", 0)):
                out({"type": "item", "number": number, "pad": "x" * frame["size"]})
                time.sleep(frame.get("pause_s", 0))
            if do == "stderr":
                os.write(2, b"e" * frame["size"])
            elif do == "half":
                os.write(1, b'{"type":"ha')
                os._exit(3)
            elif do == "exit":
                sys.exit(frame["code"])
            elif do == "ignore":
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            elif do == "deaf":
                while not os.path.exists(frame["until"]):
                    time.sleep(0.005)
            out({"type": "got", "id": frame.get("id"), "size": len(line)})
    out({"type": "eof"})


def describe() -> None:
    """Says what it was given by its keeper, and ends."""
    fds = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
    with open("/proc/self/status") as status:
        ignored = next(line.split()[1] for line in status if line.startswith("SigIgn"))
    umask = os.umask(0)
    out(
        {
            "argv": sys.argv,
            "env": dict(os.environ),
            "cwd": os.getcwd(),
            "fds": fds,
            "sid": os.getsid(0) == os.getpid() == os.getpgrp(),
            "ignored": ignored,
            "umask": umask,
        }
    )


if __name__ == "__main__":
    {"obedient": obedient, "describe": describe}[sys.argv[1]]()
