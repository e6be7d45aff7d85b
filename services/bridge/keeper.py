"""The keeper: a tiny process that starts the agent, holds its stdin open and waits for its end.

`python -I -S keeper.py <session dir> <N>`, started by the bridge with the agent's argv, cwd and environment
on stdin (`pack_spec`; nothing secret stands in a command line). It returns when the agent runs or never will;
the keeper proper goes on as a daemon without a terminal and ignores SIGHUP, SIGINT and SIGTERM. It belongs to
the agent, not to the bridge.

Order, and what a kill -9 of the keeper between the steps leaves: the lock on `keep.<N>` is taken (gone with
the process); FIFO and files are made (found again); the child writes `pid.<N>` before it becomes the agent
(so without `pid.<N>` no agent ever ran, and another keeper may start it); `exit.<N>` is written when it has
ended (missing: nobody knows the code). One keeper per N: the lock, and `pid.<N>` under the lock.

One exists for each session, so imports are few: no `json`, `signal`, `subprocess` (measured: 6.8 MB resident,
2.8 of them its own).
"""

# pathlib is an import that this process does not need:
# ruff: noqa: PTH100, PTH104, PTH110, PTH118, PTH208

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # `signal` costs an import of enum and 0.5 MB
import errno
import fcntl
import os
import sys
import time

ALREADY = 0  # exit codes of the starter
FAILED = 4
_DEFAULTS = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGPIPE, _signal.SIGXFSZ)


def pack_spec(argv: list[str], cwd: str, env: dict[str, str]) -> bytes:
    """What the keeper reads from its stdin. Raises ValueError for a NUL in any text."""
    fields = [str(len(argv)), *argv, cwd, *(f"{key}={value}" for key, value in env.items())]
    if any("\0" in field for field in fields):
        raise ValueError("a NUL character in argv, cwd or env")
    return "\0".join(fields).encode("utf-8", "surrogateescape")


def unpack_spec(spec: bytes) -> tuple[list[bytes], bytes, dict[bytes, bytes]]:
    """Undo `pack_spec`."""
    count, *fields = spec.split(b"\0")
    argv, cwd, env = fields[: int(count)], fields[int(count)], fields[int(count) + 1 :]
    return argv, cwd, dict(item.split(b"=", 1) for item in env)


def find_program(program: bytes, env: dict[bytes, bytes]) -> list[bytes]:
    """Paths to try in turn, by the agent's own PATH."""
    if b"/" in program:
        return [program]
    path = env.get(b"PATH") or os.fsencode(os.defpath)
    return [os.path.join(folder or b".", program) for folder in path.split(b":")]


def write_file(path: str, data: bytes) -> None:
    """Write a whole file so that a reader sees all of it or nothing."""
    temporary = f"{path}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, data)
    os.close(fd)
    os.rename(temporary, path)


def become_agent(
    folder: str, number: str, spec: bytes, fds: tuple[int, int, int], umask: int
) -> tuple[int, str]:
    """In the child: turn into the agent. Returns the exit code and why, if that fails."""
    argv, cwd, env = unpack_spec(spec)
    os.setsid()  # a process group of its own, so that signals reach all that it starts and nobody else
    write_file(f"{folder}/pid.{number}", b"%d\n" % os.getpid())
    try:
        os.chdir(cwd)
    except OSError as error:
        return 127, f"cannot start the agent in {os.fsdecode(cwd)}: {error.strerror}"
    for source, target in zip(fds, (0, 1, 2), strict=True):
        os.dup2(source, target)
    for number_ in _DEFAULTS:
        _signal.signal(number_, _signal.SIG_DFL)
    os.umask(umask)
    for fd in os.listdir("/proc/self/fd"):  # ours are close-on-exec; a careless starter's may not be
        try:
            os.set_inheritable(int(fd), int(fd) < 3)
        except OSError:  # the one that listed them is gone
            continue
    refused: OSError | None = None
    for path in find_program(argv[0], env):
        try:
            os.execve(path, argv, env)  # noqa: S606 - no shell is the point
        except OSError as error:
            if refused is None or error.errno not in (errno.ENOENT, errno.ENOTDIR):
                refused = error
    missing = refused is None or refused.errno in (errno.ENOENT, errno.ENOTDIR)
    text = f"cannot start the agent {os.fsdecode(argv[0])}: {refused.strerror if refused else 'no PATH'}"
    return (127 if missing else 126), text


def keep(folder: str, number: str, spec: bytes, umask: int, until_ready: tuple[int, ...]) -> None:
    """The keeper proper, from the lock to the exit file. ``until_ready`` are closed once the agent runs or
    never will.
    """
    lock = os.open(f"{folder}/keep.{number}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # another keeper is at it
    if os.path.exists(f"{folder}/pid.{number}") or os.path.exists(f"{folder}/exit.{number}"):
        return
    fifo = f"{folder}/in.{number}"
    if not os.path.exists(fifo):
        os.mkfifo(fifo, 0o600)
    hold = os.open(fifo, os.O_RDWR)  # so the agent never reads an end, whoever writes or dies
    stdin = os.open(fifo, os.O_RDONLY)
    stdout = os.open(f"{folder}/out.{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    stderr = os.open(f"{folder}/err.{number}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    failed, fail = os.pipe()  # close-on-exec: its end says that the agent runs
    child = os.fork()
    if child == 0:
        try:
            code, text = become_agent(folder, number, spec, (stdin, stdout, stderr), umask)
        except BaseException as error:  # noqa: BLE001 - the child must not go on as a second keeper
            code, text = 126, f"cannot start the agent: {error!r}"
        os.write(stderr, b"pointsman: " + text.encode("utf-8", "replace") + b"\n")
        os._exit(code)
    os.close(fail)
    del spec
    os.close(stdin)
    os.close(stdout)
    os.close(stderr)
    os.read(failed, 1)  # nothing ever comes: exec or the child's end closes it
    os.close(failed)
    for fd in until_ready:
        os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    write_file(f"{folder}/exit.{number}", b'{"code":%d,"at":"%b"}' % (code, at.encode()))
    os.close(hold)


def main(folder: str, number: str) -> int:
    """Start the keeper, wait until the agent runs or never will, and return."""
    parts = []
    while part := os.read(0, 65536):
        parts.append(part)
    spec = b"".join(parts)
    folder = os.path.abspath(folder)
    umask = os.umask(0o077)
    for name in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM):
        _signal.signal(name, _signal.SIG_IGN)
    if os.getsid(0) != os.getpid():
        os.setsid()
    done, ready = os.pipe()
    keeper = os.fork()
    if keeper:
        os.close(ready)
        os.read(done, 1)
        if any(os.path.exists(f"{folder}/{name}.{number}") for name in ("pid", "exit")):
            return ALREADY
        return os.waitstatus_to_exitcode(os.waitpid(keeper, 0)[1])
    os.close(done)
    complaints = os.dup(2)  # not kept by the daemon: the starter's owner waits for its end
    try:
        nowhere = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        os.close(nowhere)
        os.chdir("/")
        keep(folder, number, spec, umask, (ready, complaints))
    except OSError as error:
        os.write(complaints, f"keeper: {error}\n".encode())
        os._exit(FAILED)
    finally:
        os._exit(ALREADY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
