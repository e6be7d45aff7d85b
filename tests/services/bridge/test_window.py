"""The window: what is shown in which order, and a terminal that takes no output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import trio

from services.bridge.files import Launch
from services.bridge.window import BEHIND_BYTES, Window
from tests.services.bridge.rig import until

LAUNCH = Launch(session="work", uid="u", process=1, argv=["claude"], cwd="/", env={}, token="t")


def text_frame(text: str) -> bytes:
    return (
        msgspec.json.encode({"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}})
        + b"\n"
    )


def delta(text: str) -> bytes:
    event = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}
    return msgspec.json.encode({"type": "stream_event", "event": event}) + b"\n"


def show(tmp_path: Path, before: bytes, line: bytes = b"", after: bytes = b"") -> str:
    """The whole screen when ``line`` was written to the agent between two parts of its journal."""
    journal, screen = tmp_path / "out.1", tmp_path / "screen"
    screen.touch()
    journal.write_bytes(before)
    with journal.open("ab", buffering=0) as file, screen.open("ab") as out, journal.open("rb") as reading:
        window = Window(LAUNCH, tmp_path / "err.1", out=out.fileno(), keys=reading.fileno())
        window.start(reading.fileno(), 0, again=False)
        place = window.place()
        file.write(after)  # before it is known that the line was written: agents are quick
        if line:
            window.written(line, place)
        window.close()
    return screen.read_text()


def test_lines_stand_where_they_were_written(tmp_path: Path) -> None:
    prompt = json.dumps({"type": "user", "message": {"content": "the prompt"}}).encode()
    screen = show(tmp_path, text_frame("before"), prompt, text_frame("after"))
    assert screen.index("● before") < screen.index("❯ the prompt") < screen.index("● after")


def test_a_window_far_behind_leaves_deltas_out_and_shows_the_finished_text(tmp_path: Path) -> None:
    many = delta("word ") * (3 * BEHIND_BYTES // len(delta("word ")))
    screen = show(tmp_path, many + text_frame("the finished text"))
    assert "● the finished text" in screen
    assert screen.count("word") < many.count(b"word") / 2


def test_a_terminal_that_takes_nothing_holds_up_nothing(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    (tmp_path / "out.1").write_bytes(text_frame("x" * 60) * 4000)

    async def main() -> None:
        ticks = 0
        with (tmp_path / "out.1").open("rb") as journal:
            window = Window(LAUNCH, tmp_path / "err.1", out=writing, keys=reading)
            window.start(journal.fileno(), 0, again=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(window.run)
                for _ in range(50):  # others run on while nobody reads
                    window.note("a note")
                    await trio.sleep(0.001)
                    ticks += 1
                os.set_blocking(reading, False)
                seen = bytearray()

                def last() -> bool:
                    while True:
                        try:
                            seen.extend(os.read(reading, 1 << 16))
                        except BlockingIOError:
                            return seen.count(b"xxxxx\n") >= 4000

                await until(last, "all of it once somebody reads")
                nursery.cancel_scope.cancel()
            window.close()
        assert ticks == 50

    trio.run(main)
    os.close(reading)
    os.close(writing)
