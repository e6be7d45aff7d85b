"""The keeper with real processes: what the agent gets, what outlives what, and one keeper for each
process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.bridge import keeper
from tests.services.bridge.rig import AGENTS, Session, alive, wait

pytestmark = pytest.mark.real
PYTHON = [sys.executable, "-I", "-S"]


def start(
    folder: Path, number: int, argv: list[str], *, cwd: str = "/", wait_for_it: bool = True
) -> subprocess.Popen[bytes]:
    env = {"PATH": os.environ["PATH"], "SECRET": "s3cret"}
    starter = subprocess.Popen(
        [*PYTHON, keeper.__file__, str(folder), str(number)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert starter.stdin is not None
    starter.stdin.write(keeper.pack_spec(argv, cwd, env))
    starter.stdin.close()
    if wait_for_it:
        assert starter.stderr is not None
        complaints = starter.stderr.read()
        starter.stderr.close()
        assert starter.wait() == keeper.ALREADY, complaints
    return starter


_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(
    st.lists(_text, min_size=1),
    _text,
    st.dictionaries(_text.filter(lambda key: key and "=" not in key), _text),
)
def test_the_spec_arrives_as_it_was(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    assert keeper.unpack_spec(keeper.pack_spec(argv, cwd, env)) == (
        [os.fsencode(word) for word in argv],
        os.fsencode(cwd),
        {os.fsencode(key): os.fsencode(value) for key, value in env.items()},
    )


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        keeper.pack_spec(["a\0b"], "/", {})


def test_what_the_agent_gets(session: Session) -> None:
    session.process = 1
    start(session.path, 1, [*PYTHON, str(AGENTS), "describe"], cwd=str(session.home))
    assert session.exit() == 0
    said = json.loads(session.journal())
    assert said["argv"] == [str(AGENTS), "describe"]
    assert said["env"].items() >= {"SECRET": "s3cret", "PATH": os.environ["PATH"]}.items()
    assert said["env"].keys() <= {"SECRET", "PATH", "LC_CTYPE"}
    assert said["cwd"] == str(session.home)
    assert said["sid"], "a process group of its own"
    files = {name: Path(target).name for name, target in said["fds"].items() if "/proc/" not in target}
    assert files == {"0": "in.1", "1": "out.1", "2": "err.1"}
    assert int(said["ignored"], 16) & (1 << (signal.SIGHUP - 1) | 1 << (signal.SIGTERM - 1)) == 0
    current = os.umask(0o022)
    os.umask(current)
    assert said["umask"] == current
    for name in ("in", "out", "err", "pid", "exit", "keep"):
        assert session.file(name).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "text"),
    [
        (["no-such-program"], "/", 127, "no-such-program: No such file"),
        (["/etc/passwd"], "/", 126, "Permission denied"),
        (["true"], "/no/such/place", 127, "/no/such/place: No such file"),
    ],
)
def test_an_agent_that_cannot_be_started(
    session: Session, argv: list[str], cwd: str, code: int, text: str
) -> None:
    session.process = 1
    start(session.path, 1, argv, cwd=cwd)
    assert session.exit() == code
    assert text in session.file("err").read_text()


@pytest.mark.parametrize(("argv", "code"), [(["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], -9)])
def test_the_exit_code_is_kept(session: Session, argv: list[str], code: int) -> None:
    session.process = 1
    start(session.path, 1, argv)
    assert session.exit() == code
    assert json.loads(session.file("exit").read_text())["at"].endswith("Z")


def test_the_keeper_ignores_the_terminals_signals_and_holds_no_terminal(session: Session) -> None:
    session.process = 1
    start(session.path, 1, [*PYTHON, str(AGENTS), "obedient"])
    pid = session.keeper()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    targets = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    assert targets == {"/dev/null", str(session.file("keep")), str(session.file("in"))}
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    with session.file("in").open("wb", buffering=0) as fifo:
        fifo.write(b'{"id":1}\n')
    wait(lambda: b'"got"' in session.journal(), "an answer")  # nobody else holds the FIFO: no end was read
    assert alive(pid)
    with session.file("in").open("wb", buffering=0) as fifo:
        fifo.write(b'{"do":"exit","code":4}\n')
    assert session.exit() == 4
    wait(lambda: not alive(pid), "keeper's end")


def test_many_keepers_at_once_start_one_agent(session: Session) -> None:
    session.process = 1
    argv = ["sh", "-c", "echo started >> starts; read line; exit 0"]
    starters = [start(session.path, 1, argv, cwd=str(session.home), wait_for_it=False) for _ in range(8)]
    for starter in starters:
        assert starter.stderr is not None
        assert starter.stderr.read() == b""
        starter.stderr.close()
        assert starter.wait() == keeper.ALREADY
    wait((session.home / "starts").exists, "a start")
    with session.file("in").open("wb", buffering=0) as fifo:
        fifo.write(b"\n")
    assert session.exit() == 0
    start(session.path, 1, argv, cwd=str(session.home))  # and none afterwards
    assert (session.home / "starts").read_text() == "started\n"


def test_a_keeper_that_died_before_the_agent_was_born_is_replaced(session: Session) -> None:
    session.process = 1
    session.file("keep").touch()
    os.mkfifo(session.file("in"))
    start(session.path, 1, ["true"])
    assert session.exit() == 0


def test_a_keeper_is_small(session: Session) -> None:
    session.process = 1
    start(session.path, 1, [*PYTHON, str(AGENTS), "obedient"])
    status = Path(f"/proc/{session.keeper()}/status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident_kb < 12_000
