"""Words into a pipe that is read now and then: whole, in order, never waited for."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from services._process.output import Output

SIZES = st.integers(1, 100_000)


@given(st.lists(st.tuples(SIZES, st.integers(0, 80_000)), max_size=30))
def test_what_was_taken_comes_whole_and_in_order(steps: list[tuple[int, int]]) -> None:
    """Each step writes a word of a size, then reads so many bytes."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    output = Output(writer)
    taken, read = b"", b""
    for number, (size, wanted) in enumerate(steps):
        word = bytes([65 + number]) * size
        if output.write(word):
            taken += word
        if wanted:
            try:
                read += os.read(reader, wanted)
            except BlockingIOError:
                assert read == taken, "nothing is there only where all was read"
    while len(read) < len(taken):
        output.write(b"")  # the rest goes before it
        read += os.read(reader, 1 << 20)
    assert read == taken
    output.close()
    assert not output.write(b"x")
    assert os.read(reader, 1) == b""
    os.close(reader)


TAKEN = """
import os, subprocess, sys
from services._process.output import take_stdout
output = take_stdout()
print("a library", flush=True)
subprocess.run(["echo", "a child"], check=True)
output.write(b"ours\\n")
print(os.get_blocking(2), flush=True)
"""


def test_standard_output_is_the_logs_alone() -> None:
    done = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("ours\n", "a library\na child\nFalse\n")
