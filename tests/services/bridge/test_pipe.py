"""Writing whole lines into a real FIFO, whatever is in it already."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.bridge.pipe import PIPE_MOST_BYTES, AgentPipe, TooLongError


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[tuple[AgentPipe, int]]:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    pipe = AgentPipe(path)
    yield pipe, reader
    pipe.close()
    os.close(reader)


def test_nobody_at_the_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="No such device") as caught:
        AgentPipe(tmp_path / "fifo")
    assert caught.value.errno == errno.ENXIO


def test_a_long_line_fits_at_one_go_and_the_pipe_shrinks_again(fifo: tuple[AgentPipe, int]) -> None:
    pipe, reader = fifo
    line = b"x" * 900 * 1024
    assert pipe.write(line)
    assert pipe.unread() == len(line)
    pipe.shrink()  # refused while it is full: nothing is lost
    read = b""
    while len(read) < len(line):
        read += os.read(reader, 1 << 20)
    assert read == line
    pipe.shrink()
    assert pipe.write(b"{}\n")


def test_what_can_never_fit_is_refused_at_once(fifo: tuple[AgentPipe, int]) -> None:
    with pytest.raises(TooLongError, match=r"fs\.pipe-max-size"):
        fifo[0].write(b"x" * (PIPE_MOST_BYTES + 1))
    assert fifo[0].unread() == 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 100, 2049, 4095, 4096, 4097, 6000, 60_000, 200_000])
            | st.integers(1, 300_000),
            st.integers(0, 400_000),
        ),
        max_size=60,
    )
)
def test_a_write_is_whole_or_nothing(fifo: tuple[AgentPipe, int], steps: list[tuple[int, int]]) -> None:
    """Sizes that leave pages half empty, and a reader that takes odd amounts: never is a line begun and not
    ended.
    """
    pipe, reader = fifo
    expected = pipe.unread()
    assert expected == 0
    for size, taken in steps:
        if pipe.write(b"y" * size):
            expected += size
        assert pipe.unread() == expected
        if taken and expected:
            expected -= len(os.read(reader, taken))
    while expected:
        expected -= len(os.read(reader, 1 << 20))
    assert pipe.write(b"z" * 500_000), "an empty pipe takes any line"
    os.read(reader, 1 << 20)
