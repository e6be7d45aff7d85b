"""`make demo`: the whole stack in a home of its own, with three scripted sessions and no account.

One session has answered, one is talking, one waits for your approval. Everything but the model is real:
supervisord, the broker, the gate, the ledger, tmux, and the commands that the scripted model asks for (they
run in a scratch directory, once you approve them). Ctrl-C ends and removes it all.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import time

from services.demo.stack import BIN, DemoError, DemoStack


def main() -> int:
    """Exit codes: 0 ended by Ctrl-C, 1 the stack did not come up (its output is shown)."""
    parser = argparse.ArgumentParser(prog="make demo", description="Pointsman with a scripted model")
    parser.add_argument("--once", action="store_true", help="show it, then end at once (what the tests do)")
    once: bool = parser.parse_args().once
    stop = _Stop()
    print("Pointsman demo: the model is SCRIPTED (no account, no cost); everything else is real.", flush=True)
    try:
        with DemoStack() as stack:
            stack.open_sessions()
            _show(stack)
            while not once and not stop.asked and stack.running:
                time.sleep(0.2)
            print("\nEnding the demo …", flush=True)
    except DemoError as error:
        print(f"{error}\nThe demo did not come up; what it said is above.", file=sys.stderr)
        return 1
    return 0


class _Stop:
    """Ctrl-C or SIGTERM asks once; the end is ours to do in order."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True


def _show(stack: DemoStack) -> None:
    for verb in ("ls", "approvals", "cost"):
        print(f"\n$ pointsman {verb}", flush=True)
        stack.show(verb)
    ours = f"POINTSMAN_CONFIG={stack.config} {shlex.quote(str(BIN / 'pointsman'))}"
    print(
        "\nOne session waits for your yes. In another terminal:\n\n"
        f"  alias pointsman={shlex.quote(ours)}\n"
        "  pointsman approvals            # what is asked\n"
        "  pointsman approve --oldest     # say yes: the command runs\n"
        "  pointsman attach talker        # the session's own window (leave it with Ctrl-b d)\n"
        "  pointsman send greeter 'BASH date ;; SAY bye'\n"
        "  pointsman history greeter      # what has happened there\n"
        "  pointsman watch                # what happens next, anywhere: send something beside it\n\n"
        "The model is scripted: it does what the prompt says (SAY, BASH, WRITE, READ, ASK, PLAN, STREAM).\n"
        "Ctrl-C here ends and removes everything.",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
