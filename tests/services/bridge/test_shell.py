"""The whole bridge: real processes, a real FIFO and journal, a server that commits what it takes."""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from bus import bridge_wire as wire
from tests.services.bridge.rig import ROOT, TOKEN, Ingest, Session, alive, until, wait

pytestmark = pytest.mark.real


def in_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        trio.run(functools.partial(test, *args, **kwargs))

    return run


def of_process(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


@in_trio
async def test_a_turn_goes_through(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        bridge = session.bridge()
        await until(lambda: ingest.kinds() == ["hello"], "the agent's hello")
        assert ingest.frames()[0]["secret"] == "also-not-to-be-seen"
        assert (b"authorization", f"Bearer {TOKEN}".encode()) in ingest.headers
        n = await ingest.ask(id="first", count=3, size=10)
        await until(lambda: ingest.taken == n, "taken")
        await until(lambda: ingest.kinds() == ["hello", *["item"] * 3, "got"], "the answer")
        for pid in (bridge.pid, session.keeper()):
            assert TOKEN not in of_process(pid, "cmdline")
            assert "also-not" not in of_process(pid, "environ")
        await ingest.ask(do="exit", code=9)
        await until(lambda: bridge.poll() is not None, "the bridge's end")
    assert bridge.returncode == 0
    assert ingest.exit == wire.Exit(process=1, code=9, size=len(session.journal()), error=None)
    assert ingest.data == session.journal()
    assert "the agent has ended" in session.screen()
    assert TOKEN not in session.screen()


@in_trio
async def test_the_exit_is_said_until_bye_also_by_the_next_bridge(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    ingest.says_bye = False
    async with ingest.listening():
        bridge = session.bridge()
        await until(lambda: ingest.hellos, "hello")
        await ingest.ask(do="stderr", size=5)
        await ingest.ask(do="half")
        await until(lambda: ingest.exit, "exit")
        assert ingest.exit == wire.Exit(process=1, code=3, size=len(session.journal()), error="eeeee")
        assert ingest.kinds()[-1] == "pointsman_partial"
        ingest.exit = None
    async with ingest.listening():  # the same bridge again
        await until(lambda: ingest.exit, "exit after a reconnect")
        bridge.kill()
        bridge.wait()
        ingest.exit, ingest.says_bye = None, True
        after = session.bridge()
        await until(lambda: after.poll() == 0, "the next bridge's end")
        assert ingest.exit is not None


@in_trio
async def test_an_agent_that_cannot_be_started_is_reported(session: Session) -> None:
    session.launch(argv=["no-such-agent"])
    ingest = Ingest(session)
    async with ingest.listening():
        bridge = session.bridge()
        await until(lambda: bridge.poll() is not None, "the end")
    assert bridge.returncode == 0
    assert ingest.exit is not None
    assert ingest.exit.code == 127
    assert "cannot start the agent no-such-agent" in (ingest.exit.error or "")


@in_trio
async def test_the_next_process_is_served_by_the_next_bridge(session: Session) -> None:
    ingest = Ingest(session)
    async with ingest.listening():
        for code in (0, 5):
            session.launch("obedient")
            ingest.next_process()
            bridge = session.bridge()
            await until(lambda: ingest.hellos and ingest.hellos[-1].process == session.process, "hello")
            assert ingest.hellos[-1].written == 0
            await ingest.ask(do="exit", code=code)
            await until(lambda: bridge.poll() == 0, "the end")  # noqa: B023
            assert ingest.exit is not None
            assert (ingest.exit.process, ingest.exit.code) == (session.process, code)


@in_trio
async def test_signals_go_to_the_agents_group(session: Session) -> None:
    session.launch(argv=["sh", "-c", "trap 'kill $child; exit 5' INT; sleep 1000 & child=$!; echo {}; wait"])
    ingest = Ingest(session)
    async with ingest.listening():
        bridge = session.bridge()
        await until(lambda: ingest.data == b"{}\n", "the agent")
        await ingest.say(wire.Signal(name="INT"))
        await until(lambda: bridge.poll() == 0, "the end")
        assert ingest.exit is not None
        assert ingest.exit.code == 5


@in_trio
async def test_a_killed_bridge_is_followed_by_another_that_goes_on(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        pid = session.pid()
        for turn in range(5):
            await ingest.ask(id=turn, count=400, size=300, pause_s=0.001)
            await until(lambda: ingest.last().get("number", 0) > 20 + 80 * turn, "mid turn")  # noqa: B023
            session.bridges[-1].kill()
            session.bridges[-1].wait()
            await ingest.ask(id=f"{turn} while away")
            session.bridge()
            last = f"{turn} while away"
            await until(lambda: ingest.last().get("id") == last, "all of the turn")  # noqa: B023
    assert session.pid() == pid
    assert alive(pid)
    frames = ingest.frames()
    assert [frame["number"] for frame in frames if frame["type"] == "item"] == list(range(400)) * 5
    got = [str(frame["id"]) for frame in frames if frame["type"] == "got"]
    assert list(dict.fromkeys(got)) == [
        name for turn in range(5) for name in (str(turn), f"{turn} while away")
    ]
    assert "the bridge was started again" in session.screen()
    assert {hello.process for hello in ingest.hellos} == {1}


@in_trio
async def test_ingest_may_die_at_any_time(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
    for turn in range(5):
        async with ingest.listening():
            await ingest.ask(id=turn, count=300, size=300, pause_s=0.001)
            await until(lambda: ingest.last().get("number", 0) > 20 + 50 * turn, "mid turn")  # noqa: B023
    async with ingest.listening():
        await ingest.ask(id="last")
        await until(lambda: ingest.last().get("id") == "last", "everything")
    frames = ingest.frames()
    assert [frame["number"] for frame in frames if frame["type"] == "item"] == list(range(300)) * 5
    assert [frame["id"] for frame in frames if frame["type"] == "got"] == [*range(5), "last"]


@in_trio
async def test_the_agent_never_gets_half_a_line(session: Session) -> None:
    """100 times kill -9 at a random moment while 200 KB lines go in."""
    session.launch("obedient")
    ingest = Ingest(session)
    chance = random.Random(20261121)
    pad = "x" * 200_000
    asked = 0
    async with ingest.listening():
        for _ in range(100):
            hellos = len(ingest.hellos)
            bridge = session.bridge()
            await until(lambda: len(ingest.hellos) > hellos, "hello")  # noqa: B023
            for _ in range(4):
                asked += 1
                await ingest.ask(id=asked, pad=pad)
            await trio.sleep(chance.random() * 0.02)  # not to wait for anything: the moment of death
            bridge.kill()
            bridge.wait()
        session.bridge()
        await until(lambda: ingest.last().get("id") == asked, "all lines")
    frames = ingest.frames()
    assert not [frame for frame in frames if frame["type"] in ("bad", "eof")]
    got = [frame["id"] for frame in frames if frame["type"] == "got"]
    assert list(dict.fromkeys(got)) == list(range(1, asked + 1)), "each line, in order"


@in_trio
async def test_lines_that_must_not_be_written_are_refused_and_the_rest_goes_on(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        bad = [await ingest.ask_raw(text) for text in ('{"half":', "[1]", '{"a":"' + "x" * 1_000_000 + '"}')]
        await ingest.ask(id="good", pad="x" * 850_000)
        await until(lambda: ingest.last().get("id") == "good", "the good one")
        await until(lambda: ingest.taken == 4, "taken")
        assert sorted(ingest.unwritable) == bad
        assert "900" in ingest.unwritable[3] or "921600" in ingest.unwritable[3]
    assert "bad" not in ingest.kinds()


@in_trio
async def test_taken_waits_for_the_agent_and_a_full_pipe_for_room(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    gate = session.home / "gate"
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        await ingest.ask(do="deaf", until=str(gate))
        await until(lambda: ingest.taken == 1, "the first is read")
        for number in range(12):
            await ingest.ask(id=number, pad="x" * 200_000)
        await until(lambda: b'"written":4' in (session.path / "written").read_bytes(), "the pipe is full")
        assert ingest.taken == 1
        gate.touch()
        await until(lambda: ingest.taken == 13, "all read")
        await until(lambda: ingest.last().get("id") == 11, "all answered")
    assert [frame["size"] > 200_000 for frame in ingest.frames() if "id" in frame][1:] == [True] * 12


@in_trio
async def test_the_disk_stays_bounded(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        held = []
        for turn in range(10):
            await ingest.ask(id=turn, count=1000, size=500)
            await until(lambda: ingest.last().get("id") == turn, "the turn")  # noqa: B023
            held.append(session.file("out").stat().st_blocks * 512)
        await ingest.ask(do="stderr", size=3_000_000, id="err")
        await until(lambda: ingest.last().get("id") == "err", "stderr")
        await until(lambda: session.file("err").stat().st_blocks * 512 <= 600_000, "a bounded stderr")
    assert session.file("out").stat().st_size > 5_000_000
    assert held[-1] <= 256 * 1024, held
    assert ingest.offset == session.file("out").stat().st_size


@in_trio
async def test_too_long_a_line_is_replaced(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        await ingest.ask(id="long", count=1, size=wire.MAX_LINE_BYTES - 1000)
        await until(lambda: ingest.last().get("id") == "long", "16 MiB")
        await ingest.ask(id="longer", count=1, size=wire.MAX_LINE_BYTES)
        await until(lambda: ingest.last().get("id") == "longer", "more than 16 MiB")
    assert ingest.kinds() == ["hello", "item", "got", "pointsman_oversized", "got"]
    assert ingest.offset == session.file("out").stat().st_size


@in_trio
async def test_a_refused_bridge_says_why_and_leaves_the_agent_alone(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    ingest.refuses = "no such session"
    async with ingest.listening():
        bridge = session.bridge()
        await until(lambda: bridge.poll() is not None, "the end")
    assert bridge.returncode == 3
    assert "no such session" in session.screen()
    assert alive(session.pid())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_bridge_and_nothing_else(session: Session, number: signal.Signals) -> None:
    session.launch("obedient")
    bridge = session.bridge()
    wait(lambda: session.file("out").exists() and session.journal(), "the agent")
    wait(lambda: "hello" in session.screen() or "work" in session.screen(), "the header")
    bridge.send_signal(signal.SIGINT)  # Ctrl-C in the window: only a hint
    wait(lambda: "keys do not reach the agent" in session.screen(), "the hint")
    bridge.send_signal(number)
    assert bridge.wait(30) == 0
    assert alive(session.pid())
    assert alive(session.keeper())


def test_only_one_bridge_serves_a_session(session: Session) -> None:
    session.launch("obedient")
    session.bridge()
    wait(lambda: session.file("out").exists() and session.journal(), "the agent")
    assert session.bridge().wait(20) == 3
    assert "another bridge" in session.screen()


@pytest.mark.parametrize("text", [None, "{", '{"session":"work"}', "[]"])
def test_a_bad_launch_file_exits_2(session: Session, text: str | None) -> None:
    if text is not None:
        (session.path / "launch.json").write_text(text)
    assert session.bridge().wait(20) == 2
    assert "launch.json" in session.screen()


@in_trio
async def test_a_dead_keeper_does_not_end_the_session(session: Session) -> None:
    """The bridge holds the FIFO too, so the agent goes on, and its end is seen, though not its code."""
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        bridge = session.bridge()
        await until(lambda: ingest.hellos, "hello")
        os.kill(session.keeper(), signal.SIGKILL)
        await ingest.ask(id="after")
        await until(lambda: "got" in ingest.kinds(), "an answer")
        await ingest.ask(do="exit", code=4)
        await until(lambda: bridge.poll() == 0, "the end")
        assert ingest.exit is not None
        assert ingest.exit.code is None


def test_everything_gone_at_once_is_reported_without_a_code(session: Session) -> None:
    """After a power cut: files are there, processes are not."""
    session.launch("obedient")
    session.bridge()
    wait(lambda: session.file("out").exists() and session.journal(), "the agent")
    session.bridges[-1].kill()
    session.bridges[-1].wait()
    os.kill(session.keeper(), signal.SIGKILL)
    wait(lambda: b"eof" in session.journal(), "the agent reads the end of its stdin")

    async def main() -> None:
        ingest = Ingest(session)
        async with ingest.listening():
            bridge = session.bridge()
            await until(lambda: bridge.poll() == 0, "the end")
        assert ingest.exit is not None
        assert ingest.exit.code is None
        assert ingest.kinds() == ["hello", "eof"]

    trio.run(main)


@in_trio
async def test_an_ingest_that_forgot_everything_is_told_what_is_lost(session: Session) -> None:
    session.launch("obedient")
    ingest = Ingest(session)
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        await ingest.ask(id=1, count=1000, size=300)
        await until(lambda: ingest.last().get("id") == 1, "a turn")
        await until(lambda: b'"kept":0' not in (session.path / "written").read_bytes(), "some punched")
    ingest.data, ingest.offset = b"", 0
    async with ingest.listening():
        await until(lambda: ingest.offset == len(session.journal()), "the rest")
        await ingest.ask(id=2)
        await until(lambda: ingest.last().get("id") == 2, "what follows")
    first = ingest.frames()[0]
    assert first["type"] == "pointsman_lost"
    assert first["bytes"] > 64 * 1024


def test_the_window_goes_on_without_ingest(session: Session) -> None:
    said = {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": "still here"}]}}
    session.launch(argv=["sh", "-c", f"echo '{json.dumps(said)}'; read x"])
    session.bridge()
    wait(lambda: "● still here" in session.screen(), "the text on the screen")
    wait(lambda: "Pointsman cannot be reached" in session.screen(), "a word about the outage")


@in_trio
async def test_a_scripted_turn_with_an_approval_over_the_death_of_the_bridge(session: Session) -> None:
    """The demonstration's agent: the bridge dies while it waits, the next one carries the answer."""
    flags = (
        "-p --verbose --input-format stream-json --output-format stream-json --permission-prompt-tool stdio"
    )
    agent = [sys.executable, str(ROOT / "services" / "demo" / "agent.py"), *flags.split()]
    session.launch(argv=agent, env={"PATH": os.environ["PATH"], "HOME": str(session.home)})
    ingest = Ingest(session)
    made = session.home / "made"
    async with ingest.listening():
        session.bridge()
        await until(lambda: ingest.hellos, "hello")
        content = "BASH touch made ;; SAY it is made"
        prompt = {"role": "user", "content": content}
        await ingest.ask(type="user", message=prompt, parent_tool_use_id=None, session_id="")

        def question() -> dict[str, Any] | None:
            return next((frame for frame in ingest.frames() if frame["type"] == "control_request"), None)

        await until(question, "the question")
        session.bridges[-1].kill()
        session.bridges[-1].wait()
        assert not made.exists()
        asked = question()
        assert asked is not None
        answer = {"behavior": "allow", "updatedInput": asked["request"]["input"]}
        response = {"subtype": "success", "request_id": asked["request_id"], "response": answer}
        await ingest.ask(type="control_response", response=response)
        session.bridge()
        await until(lambda: ingest.last().get("type") == "result", "the result")
        assert made.exists()
        assert ingest.last()["is_error"] is False
        assert ingest.taken == 2
        await until(lambda: "● it is made" in session.screen(), "the window")
        assert "approved: Bash" in session.screen()
    assert "waiting for approval: Bash" in session.screen()


def handles(pid: int) -> list[str]:
    """What the process has open."""
    return [str(handle.readlink()) for handle in Path(f"/proc/{pid}/fd").iterdir()]


def test_an_idle_bridge_uses_no_processor(session: Session) -> None:
    async def main() -> float:
        session.launch("obedient")
        ingest = Ingest(session)
        async with ingest.listening():
            bridge = session.bridge()
            await until(lambda: ingest.hellos and ingest.kinds() == ["hello"], "hello")
            await ingest.ask(id=1)
            await until(lambda: ingest.taken == 1, "taken")
            assert "anon_inode:inotify" in handles(bridge.pid)  # it is woken, and does not poll

            def spent() -> int:
                fields = Path(f"/proc/{bridge.pid}/stat").read_text().rpartition(")")[2].split()
                return int(fields[11]) + int(fields[12])

            before = spent()
            await trio.sleep(2)  # not to wait for anything: the time that is measured
            return (spent() - before) / os.sysconf("SC_CLK_TCK") / 2

    assert trio.run(main) <= 0.02
