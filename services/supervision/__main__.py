"""The event listener: takes each event from supervisord and says "OK" to it. It ends with supervisord."""

from __future__ import annotations

import sys
from contextlib import suppress


def main() -> None:
    events, answers = sys.stdin.buffer, sys.stdout.buffer
    while True:
        answers.write(b"READY\n")
        answers.flush()
        header = dict(word.split(b":", 1) for word in events.readline().split())
        if not header:
            return
        events.read(int(header[b"len"]))
        answers.write(b"RESULT 2\nOK")


with suppress(BrokenPipeError):  # supervisord is gone
    main()
