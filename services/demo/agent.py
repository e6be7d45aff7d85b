"""A scripted agent: it stands in for the command `claude` where there is no account.

`python services/demo/agent.py <the arguments of claude>` speaks the stream-json protocol of Claude Code
2.1.329 over stdin and stdout, as recorded from the real one; `tests/agents/test_conformance.py` holds both
to the same tests. What the "model" does is said by the prompt (`scripted/script.py`). The tools Bash, Read
and Write really run, after the same questions. Costs are made up, but add up: per turn, per process, and
over `--resume`.

What it does not do: subagents, MCP, slash commands, compaction, settings files, forks, hooks other than
PreToolUse and PostToolUse, more than one tool at a time.

Environment: `CLAUDE_CONFIG_DIR` (default `~/.claude`) holds the transcripts; `POINTSMAN_SCRIPTED_VERSION`
is the version to report; `POINTSMAN_SCRIPTED_RECORD` names a file for its own record (`scripted/record.py`).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from services.demo.scripted.loop import Loop
    from services.demo.scripted.options import options_of
    from services.demo.scripted.session import Session
    from services.demo.scripted.wire import VERSION
else:  # started as a program, perhaps with -I: the package `services` is neither there nor wanted
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from scripted.loop import Loop
    from scripted.options import options_of
    from scripted.session import Session
    from scripted.wire import VERSION


def main(arguments: list[str]) -> int:
    """Run with the arguments of `claude`. Returns the exit code."""
    options = options_of(arguments)
    if "--version" in options:
        os.write(1, f"{VERSION} (Claude Code)\n".encode())
        return 0
    if options.get("--input-format") != "stream-json" or options.get("--output-format") != "stream-json":
        fail(
            "The scripted agent speaks stream-json only: "
            "-p --input-format stream-json --output-format stream-json"
        )
    session = Session(options)
    if "--resume" in options:
        if not session.conversation.load():
            refuse_resume(session)
    elif os.path.exists(session.conversation.transcript):
        fail(f"Error: Session ID {session.id} is already in use.")
    session.record("start", model=session.model, resumed="--resume" in options)
    loop = Loop(session)
    try:
        code = loop.run()
    except BrokenPipeError:
        code = 1
    if not loop.broken:
        session.conversation.keep_bill()
    session.record("exit", code=code)
    return code


def refuse_resume(session: Session) -> NoReturn:
    error = f"No conversation found with session ID: {session.id}"
    session.host.say(
        {
            "type": "result",
            "subtype": "error_during_execution",
            "is_error": True,
            "num_turns": 0,
            "stop_reason": None,
            "total_cost_usd": 0,
            "usage": {},
            "modelUsage": {},
            "permission_denials": [],
            "errors": [error],
        }
    )
    fail(error)


def fail(message: str) -> NoReturn:
    os.write(2, message.encode() + b"\n")
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
