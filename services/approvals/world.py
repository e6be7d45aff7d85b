"""What the gate's judge sees of the world: shfmt, and where symbolic links lead. The thin half of
`danger.sight`.
"""

from __future__ import annotations

import os
import posixpath
import resource
import shutil
import subprocess
import sysconfig
import threading
import time
from pathlib import Path

import msgspec

from services.approvals.danger.sight import LIMIT_S, Sight, Tree, Unparsed

MAX_TEXT_BYTES = 32 * 1024  # of a command; a long one is a script, and nobody reads it on a telephone
MAX_TREE_BYTES = (
    4 * 1024 * 1024
)  # shfmt writes about 300 bytes for each sign of dense code, more where it is deep
DEADLINE_S = 1.0  # 2 ms is usual; hostile nesting takes shfmt minutes, and the gate waits meanwhile
LOADED = 4  # times the seconds of the processor: what else runs takes its share
PATH_MAX = 4096  # Linux's: no program opens a longer one as it is written
REMEMBERED = 16  # texts: one is asked about by a hook, then by the agent, and again when it is decided
REMEMBERED_CHARS = 1000  # of each; a tree takes some thousand times as much memory


def find_shfmt() -> str | None:
    """The one that was installed with Pointsman, else the system's."""
    own = Path(sysconfig.get_path("scripts")) / "shfmt"
    return str(own) if os.access(own, os.X_OK) else shutil.which("shfmt")


def sight(shfmt: str | None = None, deadline_s: float = DEADLINE_S, limit_s: float = LIMIT_S) -> Sight:
    """The real one. ``shfmt``: which program to run, by default the one that is found. ``deadline_s`` is for
    one run of it, on the wall.
    """
    program = shfmt or find_shfmt()

    def parse(text: str, within_s: float) -> Tree | Unparsed:
        if text in remembered:
            return remembered[text]
        tree = _parse(program, text, min(deadline_s, within_s * LOADED))
        if not isinstance(tree, Unparsed) and len(text) <= REMEMBERED_CHARS:
            if len(remembered) >= REMEMBERED:
                del remembered[next(iter(remembered))]
            remembered[text] = tree
        return tree

    remembered: dict[str, Tree] = {}
    return Sight(parse, resolve, os.path.lexists, str(Path("~").expanduser()), spent, limit_s)


def resolve(path: str) -> str:
    """Where it leads, whatever an agent has written: a NUL leads nowhere, and what is too long for the kernel
    leads somewhere only if a program shortens it first.
    """
    if len(path) > PATH_MAX:
        path = posixpath.normpath(path)
    try:
        return path if len(path) > PATH_MAX else os.path.realpath(path)
    except ValueError:
        return path


def spent() -> float:
    """Seconds of the processor: of this process, and of the children that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _parse(program: str | None, text: str, deadline_s: float) -> Tree | Unparsed:
    if program is None:
        return Unparsed("shfmt is not installed (pointsman doctor says how to mend it)")
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return Unparsed("it is no valid text", broken=True)
    if len(encoded) > MAX_TEXT_BYTES:
        return Unparsed(f"it is longer than {MAX_TEXT_BYTES} bytes")
    try:
        code, said, complaint = _run([program, "--to-json", "-ln", "bash"], encoded, deadline_s)
    except OSError as error:
        return Unparsed(f"shfmt does not run: {error.strerror}")
    if code != 0 and complaint:
        return Unparsed(complaint.decode("utf-8", "replace").splitlines()[0][:200], broken=True)
    if code != 0:
        return Unparsed("parsing took too long, or gave too much")
    try:
        tree = msgspec.json.decode(said)
    except RecursionError:
        return Unparsed("it is nested too deeply")
    except msgspec.DecodeError:
        return Unparsed("shfmt's answer cannot be read")
    return tree if isinstance(tree, dict) else Unparsed("shfmt gave no tree")


def _run(argv: list[str], given: bytes, deadline_s: float) -> tuple[int, bytes, bytes]:
    """Exit code, output (cut short beyond `MAX_TREE_BYTES`, with the program killed) and complaint."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}
    ) as child:
        assert child.stdin is not None  # noqa: S101  # all three are pipes
        assert child.stdout is not None  # noqa: S101
        assert child.stderr is not None  # noqa: S101
        killer = threading.Timer(deadline_s, child.kill)
        killer.start()
        try:
            # shfmt reads all before it writes, and at most one line of complaint: no pipe fills up
            child.stdin.write(given)
            child.stdin.close()
            said = child.stdout.read(MAX_TREE_BYTES + 1)
            if len(said) > MAX_TREE_BYTES:
                child.kill()
            complaint = child.stderr.read(4096)
        except BrokenPipeError:
            said, complaint = b"", b""
        finally:
            killer.cancel()
        return child.wait(), said, complaint
