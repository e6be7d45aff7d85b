"""A scripted agent: it stands in for the command `claude` where there is no account.

`python services/demo/agent.py <the arguments of claude>` speaks the stream-json protocol of Claude Code
2.1.329 over stdin and stdout, as recorded from the real one; `tests/agents/test_conformance.py` holds both
to the same tests. What the "model" does is said by the prompt (`script.py`). The tools Bash, Read and Write
really run, after the same questions. Costs are made up, but add up: per turn, per process, and over
`--resume`.

What it does not do: subagents, MCP, slash commands, compaction, settings files, forks, hooks other than
PreToolUse and PostToolUse, more than one tool at a time.

It is started by the dozen (demo, load tests), and as a file, not as part of a package: therefore it has far
over 400 lines. It is one thread and one `poll` with few imports: no
`typing`, `asyncio`, `subprocess` or `argparse` (`python -X importtime` shows why). A turn is a generator
that yields what it waits for: `("sleep", seconds)`, `("answer", request_id, timeout_s)` or `("child",
pid)`.

It is one long file because it is one program that has to start from one file, wherever it lies.

Environment: `CLAUDE_CONFIG_DIR` (default `~/.claude`) holds the transcripts; `POINTSMAN_SCRIPTED_VERSION`
is the version to report; `POINTSMAN_SCRIPTED_RECORD` names a file to which it appends its own record, one
JSON line each, for an observer that wants to know what really happened: `{"at", "pid", "session",
"session_id", "kind", …}` (`session` is Pointsman's name for it), kind being `start`, `prompt`, `begun`,
`question`, `answer`, `repeated` (an answer to what is not open), `cancelled`, `tool`, `bill` (with
`cost_picodollars`) or `exit`.
"""

# `pathlib` would double the start-up time; the asserts tell mypy what the loop knows.
# ruff: noqa: PTH100, PTH103, PTH109, PTH110, PTH111, PTH112, PTH118, PTH119, PTH120, PTH208, S101

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, NoReturn

    from services.demo import script

    Frame = dict[str, Any]
    Wait = tuple[Any, ...]
    Steps = Generator[Wait, Any, Any]
else:  # started as a program, perhaps with -I: the package `services` is neither there nor wanted
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import script

VERSION = os.environ.get("POINTSMAN_SCRIPTED_VERSION") or "2.1.329"
MODEL = "scripted"
MODEL_PRICE = script.PRICES["claude-opus-5-5"]  # for models without a price of their own, as `scripted` is
TOOLS = ("AskUserQuestion", "Bash", "Edit", "ExitPlanMode", "Glob", "Grep", "Read", "WebFetch", "Write")
MODES = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan")
FIXED_TOKENS = 9000  # stands for the system prompt and the tools in the usage
HOOK_TIMEOUT_S = 600.0
BASH_TIMEOUT_S = 120.0
MAX_OUTPUT = 30_000
READS_ONLY = ("cat", "date", "echo", "head", "ls", "pwd", "tail", "true", "uname", "wc", "whoami")
EDITS = ("cp", "mkdir", "mv", "rm", "rmdir", "sed", "touch")
REJECTED = (
    "The user doesn't want to proceed with this tool use. The tool use was rejected (eg. if it was a file "
    "edit, the new_string was NOT written to the file). STOP what you are doing and wait for the user to "
    "tell you how to proceed."
)
BAD_RESULT = (
    "The canUseTool callback returned an invalid permission result. Expected {behavior: 'allow', "
    "updatedInput?: object} or {behavior: 'deny', message: string}."
)
FLAGS_WITH_VALUE = frozenset(
    (
        "--input-format",
        "--output-format",
        "--permission-prompt-tool",
        "--resume",
        "--session-id",
        "--model",
        "--permission-mode",
        "--sdk-url",
        "--settings",
        "--add-dir",
        "--append-system-prompt",
        "--allowedTools",
        "--disallowedTools",
        "--mcp-config",
        "--setting-sources",
        "--max-turns",
        "--fallback-model",
    )
)


class Interrupted(Exception):  # noqa: N818 - not an error: the turn was told to stop
    """Thrown into the turn to end it."""


class Turn:
    """What one turn has used and done so far."""

    def __init__(self, uuids: list[str]) -> None:
        self.prompt_id = new_id()
        self.uuids = uuids
        self.started = time.monotonic()
        self.usage: Frame = {}
        self.api_calls = 0
        self.results = 0
        self.stop_reason: str | None = None
        self.text = ""
        self.denials: list[Frame] = []
        self.in_tool = False
        self.stopped = False


class Agent:
    """The whole agent: frames in, frames out, one turn at a time."""

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options
        self.model = options.get("--model") or MODEL
        mode = options.get("--permission-mode") or "default"
        self.mode = "default" if mode == "manual" else mode
        self.may_bypass = self.mode == "bypassPermissions" or "--dangerously-skip-permissions" in options
        self.session_id = options.get("--resume") or options.get("--session-id") or new_id()
        self.cwd = os.getcwd()
        self.messages: list[Frame] = []
        self.seen: set[str] = set()
        self.queue: list[tuple[str, str | None]] = []
        self.hooks: dict[str, list[Frame]] = {}
        self.open: dict[str, Frame] = {}
        self.answers: dict[str, Frame] = {}
        self.rules: list[tuple[str, str | None]] = []
        self.usage: dict[str, list[int]] = {}
        self.result_index = 0
        self.turn: Steps | None = None
        self.this = Turn([])
        self.wait: Wait | None = None
        self.wake_at: float | None = None
        self.child: tuple[int, int, list[bytes]] | None = None
        self.eof = False
        self.exit_code: int | None = None
        self.broken = False
        self.limited = False
        self.last_uuid: str | None = None
        self.started = time.monotonic()
        base = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(os.path.expanduser("~"), ".claude")
        self.projects = os.path.join(base, "projects")
        self.transcript = os.path.join(
            self.projects, re.sub(r"[^A-Za-z0-9]", "-", self.cwd), self.session_id + ".jsonl"
        )

    # --- the loop ---------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve stdin until the end. Returns the exit code."""
        self.record("start", model=self.model, resumed="--resume" in self.options)
        wakeup, signalled = os.pipe()
        os.set_blocking(wakeup, False)
        os.set_blocking(signalled, False)
        signal.set_wakeup_fd(signalled)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        buffer = b""
        while not self.finished():
            poll = select.poll()
            poll.register(wakeup, select.POLLIN)
            if not self.eof:
                poll.register(0, select.POLLIN)
            if self.child is not None and self.child[1] >= 0:
                poll.register(self.child[1], select.POLLIN)
            for fd, _ in poll.poll(self.timeout_ms()):
                if fd == wakeup:
                    self.signals(os.read(wakeup, 64))
                elif fd == 0:
                    data = os.read(0, 262_144)
                    if not data:
                        self.eof = True
                        self.fail_open("Error: Tool permission stream closed before response received")
                    *lines, buffer = (buffer + data).split(b"\n")
                    for line in lines:
                        if self.exit_code is None:
                            self.line(line)
                elif self.child is not None:
                    self.read_child()
        return self.exit_code or 0

    def finished(self) -> bool:
        """Go on as far as it goes; true when there is nothing more to wait for."""
        self.advance()
        return self.exit_code is not None or (self.eof and self.turn is None and not self.queue)

    def timeout_ms(self) -> float | None:
        if self.wake_at is None:
            return None
        return max(0.0, (self.wake_at - time.monotonic()) * 1000)

    def advance(self) -> None:
        """Start the next turn if none runs, and go on with the turn as far as it goes without waiting."""
        while self.exit_code is None:
            if self.turn is None:
                if not self.queue:
                    return
                prompts, self.queue = self.queue, []
                self.this = Turn([uuid for _, uuid in prompts if uuid])
                self.turn = self.run_turn(prompts)
                self.wait = ()
            done, value = self.ready()
            if not done:
                return
            self.step(value)

    def step(self, value: Any, error: Exception | None = None) -> None:
        assert self.turn is not None
        try:
            self.wait = (
                self.turn.throw(error) if error is not None else self.turn.send(value if self.wait else None)
            )
        except StopIteration:
            self.turn = self.wait = self.wake_at = None
            return
        kind = self.wait[0]
        self.wake_at = None
        if kind == "sleep":
            self.wake_at = time.monotonic() + self.wait[1]
        elif kind == "answer" and self.wait[2] is not None:
            self.wake_at = time.monotonic() + self.wait[2]
        elif kind == "child":
            self.wake_at = time.monotonic() + BASH_TIMEOUT_S

    def ready(self) -> tuple[bool, Any]:
        """Whether what the turn waits for is there, and its value."""
        if not self.wait:
            return True, None
        late = self.wake_at is not None and time.monotonic() >= self.wake_at
        kind = self.wait[0]
        if kind == "answer":
            answer = self.answers.pop(self.wait[1], None)
            return answer is not None or late, answer
        if kind == "child":
            assert self.child is not None
            pid, fd, output = self.child
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                found, status = pid, 0
            if not found:
                if late:
                    self.kill_child()
                    self.wake_at = None
                return False, None
            while fd >= 0 and self.read_child():
                pass
            if self.child[1] >= 0:
                os.close(self.child[1])
            self.child = None
            return True, (os.waitstatus_to_exitcode(status), b"".join(output))
        return late, None

    def read_child(self) -> bool:
        """Take some of the child's output; false when there is none now."""
        assert self.child is not None
        pid, fd, output = self.child
        if fd < 0:
            return False
        try:
            data = os.read(fd, 65_536)
        except BlockingIOError:
            return False
        if not data:
            os.close(fd)
            self.child = (pid, -1, output)
            return False
        output.append(data)
        return True

    def kill_child(self) -> None:
        if self.child is not None:
            try:
                os.killpg(self.child[0], signal.SIGKILL)
            except OSError as error:
                if error.errno not in (errno.ESRCH, errno.EPERM):
                    raise

    def signals(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self.kill_child()
            self.leave(143)
        elif signal.SIGINT in numbers:
            self.stop_turn()
            self.leave(0)

    def leave(self, code: int) -> None:
        """End the process with this code, once the loop comes round."""
        if self.exit_code is None:
            self.exit_code = code

    def stop_turn(self) -> bool:
        """Interrupt the turn. Returns whether there was one."""
        if self.turn is None:
            return False
        for request_id in list(self.open):
            del self.open[request_id]
            self.record("cancelled", request_id=request_id)
            self.out({"type": "control_cancel_request", "request_id": request_id})
        self.kill_child()
        if self.child is not None:
            pid, fd, _ = self.child
            os.waitpid(pid, 0)
            if fd >= 0:
                os.close(fd)
            self.child = None
        self.step(None, Interrupted())
        return True

    def fail_open(self, error: str) -> None:
        """Nobody will answer any more: every open question has failed."""
        for request_id in list(self.open):
            del self.open[request_id]
            self.record("cancelled", request_id=request_id)
            self.answers[request_id] = {"subtype": "error", "error": error}

    # --- frames -----------------------------------------------------------------------------------

    def out(self, frame: Frame) -> None:
        data = compact(frame) + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def say(self, frame: Frame) -> None:
        self.out({**frame, "session_id": self.session_id, "uuid": new_id()})

    def line(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            frame = json.loads(line)
            if not isinstance(frame, dict):
                raise ValueError("not an object")  # noqa: TRY004 - one kind of bad line
        except ValueError as error:
            os.write(2, b"Error parsing streaming input line: %s: %s\n" % (line[:200], str(error).encode()))
            self.kill_child()
            self.broken = True
            self.leave(1)
            return
        kind = frame.get("type")
        if kind == "user":
            self.take_prompt(frame)
        elif kind == "control_request":
            self.control(str(frame.get("request_id")), frame.get("request") or {})
        elif kind == "control_response":
            self.take_answer(frame.get("response") or {})

    def take_prompt(self, frame: Frame) -> None:
        content = frame["message"]["content"]
        text = (
            content
            if isinstance(content, str)
            else "\n".join(str(block.get("text", "")) for block in content)
        )
        uuid = frame.get("uuid")
        if uuid and uuid in self.seen:
            self.record("prompt", text=text, uuid=uuid, duplicate=True)
            self.lifecycle(uuid, "completed")
            return
        if uuid:
            self.seen.add(uuid)
            self.lifecycle(uuid, "queued")
        self.record("prompt", text=text, uuid=uuid, duplicate=False)
        self.append(
            {
                "type": "queue-operation",
                "operation": "enqueue",
                "timestamp": now(),
                "sessionId": self.session_id,
                "content": text,
            }
        )
        self.queue.append((text, uuid))

    def take_answer(self, response: Frame) -> None:
        request_id = str(response.get("request_id"))
        request = self.open.pop(request_id, None)
        if request is None:  # late, double, or to something that we never asked
            self.record("repeated", request_id=request_id, response=response.get("response"))
        else:
            self.answers[request_id] = response
            self.record(
                "answer",
                request_id=request_id,
                tool_use_id=request.get("tool_use_id"),
                subtype=request["subtype"],
                response=response.get("response"),
            )

    def lifecycle(self, uuid: str, state: str) -> None:
        self.say({"type": "command_lifecycle", "command_uuid": uuid, "state": state})

    def control(self, request_id: str, request: Frame) -> None:
        """Answer a control request of the host."""
        subtype = request.get("subtype")
        more: Frame = {}
        try:
            answer = self.do_control(str(subtype), request, more)
        except ValueError as error:
            self.respond(
                request_id, {"subtype": "error", "error": str(error), "error_code": "invalid_request"}
            )
            return
        body: Frame = {"subtype": "success"}
        if answer is not None:
            body["response"] = answer
        self.respond(request_id, {**body, **more})
        if subtype == "interrupt":
            self.stop_turn()
        elif subtype == "end_session":
            self.leave(1 if self.stop_turn() else 0)
        elif subtype == "set_permission_mode":
            self.say({"type": "system", "subtype": "status", "status": None, "permissionMode": self.mode})

    def respond(self, request_id: str, body: Frame) -> None:
        self.out({"type": "control_response", "response": {"request_id": request_id, **body}})

    def do_control(self, subtype: str, request: Frame, more: Frame) -> Frame | None:
        """The answer's `response`; what goes beside it goes into `more`. Errors are `ValueError`."""
        if subtype == "initialize":
            return self.initialize(request, more)
        if subtype == "interrupt":
            return {"still_queued": [uuid for _, uuid in self.queue if uuid]}
        if subtype == "end_session":
            return None
        if subtype == "set_model":
            self.model = str(request.get("model") or MODEL)
            text = f"<local-command-stdout>Set model to `{self.model}`</local-command-stdout>"
            self.say(
                {
                    "type": "user",
                    "message": {"role": "user", "content": text},
                    "parent_tool_use_id": None,
                    "timestamp": now(),
                    "isReplay": True,
                }
            )
            return {"model": self.model}
        if subtype == "set_permission_mode":
            mode = "default" if request.get("mode") == "manual" else str(request.get("mode"))
            if mode not in MODES:
                raise ValueError("Cannot set permission mode: must be one of " + ", ".join(MODES))
            if mode == "bypassPermissions" and not self.may_bypass:
                raise ValueError(
                    "Cannot set permission mode to bypassPermissions because the session was not launched "
                    "with --dangerously-skip-permissions"
                )
            self.mode = mode
            return {"mode": mode}
        if subtype == "get_session_cost":
            lines = [f"Estimated cost:        ${self.total() / 1e12:.4f}", "Usage by model:"]
            lines += [
                f"{model:>21}:  {row[0]} input, {row[1]} output, {row[2]} cache read, "
                f"{row[3] + row[4]} cache write "
                f"(${row[5] / 1e12:.4f})"
                for model, row in self.usage.items()
            ]
            return {"text": "\n".join(lines)}
        if subtype == "mcp_status":
            return {"mcpServers": []}
        if subtype == "get_settings":
            return {"effective": {}, "sources": [], "applied": {"model": self.model}}
        if subtype == "get_context_usage":
            used = FIXED_TOKENS + len(compact(self.messages)) // 4
            return {"categories": [], "totalTokens": used, "maxTokens": 1_000_000, "model": self.model}
        if subtype == "set_max_thinking_tokens":
            return None
        raise ValueError(f"Unsupported control request subtype: {subtype}")

    def initialize(self, request: Frame, more: Frame) -> Frame:
        answer: Frame = {
            "commands": [],
            "agents": [],
            "output_style": "default",
            "available_output_styles": ["default"],
            "models": [
                {
                    "value": "default",
                    "resolvedModel": MODEL,
                    "displayName": "Scripted",
                    "description": "no account",
                }
            ],
            "account": {"tokenSource": "none", "apiKeySource": "none", "apiProvider": "scripted"},
            "pid": os.getpid(),
            "claude_code_version": VERSION,
            "current_permission_mode": self.mode,
            "hook_on_failure_supported": False,
            "session_state": "running" if self.turn is not None else "idle",
            "capabilities": [],
        }
        if request.get("hooks"):
            answer["hooks_applied"] = True
            self.hooks = {event: list(matchers) for event, matchers in request["hooks"].items()}
            for request_id in [
                key for key, open_ in self.open.items() if open_["subtype"] == "hook_callback"
            ]:
                del self.open[request_id]
                self.out({"type": "control_cancel_request", "request_id": request_id})
                self.answers[request_id] = {"subtype": "cancelled"}
        more["pending_permission_requests"] = [
            {"type": "control_request", "request_id": key, "request": open_}
            for key, open_ in self.open.items()
            if open_["subtype"] == "can_use_tool"
        ]
        return answer

    def ask_host(self, request: Frame, timeout_s: float | None = None) -> Steps:
        """Send a control request and wait for its answer; `{"subtype": "timeout"}` when none came in time."""
        request_id = new_id()
        if self.eof:
            return {
                "subtype": "error",
                "error": "Error: Tool permission stream closed before response received",
            }
        self.open[request_id] = request
        self.record(
            "question",
            request_id=request_id,
            subtype=request["subtype"],
            tool_use_id=request.get("tool_use_id"),
        )
        self.out({"type": "control_request", "request_id": request_id, "request": request})
        answer = yield ("answer", request_id, timeout_s)
        if answer is None:
            self.open.pop(request_id, None)
            self.record("cancelled", request_id=request_id)
            self.out({"type": "control_cancel_request", "request_id": request_id})
            return {"subtype": "timeout"}
        return answer

    # --- a turn -----------------------------------------------------------------------------------

    def run_turn(self, prompts: list[tuple[str, str | None]]) -> Steps:
        """One turn: the prompts that were waiting, merged, up to the `result` frame."""
        turn = self.this
        for uuid in turn.uuids:
            self.lifecycle(uuid, "started")
        self.init_frame()
        text = "\n".join(text for text, _ in prompts)
        for prompt, prompt_uuid in prompts:
            self.record("begun", uuid=prompt_uuid)
            self.append(
                {
                    "type": "queue-operation",
                    "operation": "dequeue",
                    "timestamp": now(),
                    "sessionId": self.session_id,
                }
            )
            self.keep(
                {
                    "type": "user",
                    "message": {"role": "user", "content": prompt},
                    "promptId": turn.prompt_id,
                    "permissionMode": self.mode,
                },
                prompt_uuid,
            )
        self.messages.append({"role": "user", "content": text})
        failed: int | None = None
        try:
            while failed is None and not turn.stopped:
                failed, tools = yield from self.model_answer()
                for tool in tools:
                    yield from self.use_tool(tool)
                if not tools:
                    break
                self.take_mid_turn()
        except Interrupted:
            suffix = " for tool use" if turn.in_tool else ""
            self.user_frame([{"type": "text", "text": f"[Request interrupted by user{suffix}]"}])
            self.result("aborted_tools" if turn.in_tool else "aborted_streaming")
        else:
            self.result("api_error" if failed else "hook_stopped" if turn.stopped else "completed", failed)
        for uuid in turn.uuids:
            self.lifecycle(uuid, "completed")

    def limit(self, status: str, seconds: float) -> bool:
        """A usage limit is reached: once, afterwards there is none."""
        if self.limited:
            return False
        self.limited = True
        info = {
            "status": status,
            "resetsAt": int(time.time() + seconds),
            "rateLimitType": "five_hour",
            "utilization": 1.0,
            "isUsingOverage": False,
        }
        self.say({"type": "rate_limit_event", "rate_limit_info": info})
        return True

    def take_mid_turn(self) -> None:
        """Prompts that arrived while the tools ran become part of this turn."""
        prompts, self.queue = self.queue, []
        for text, uuid in prompts:
            self.record("begun", uuid=uuid)
            self.messages.append({"role": "system", "content": script.MID_TURN + text})
            self.keep(
                {
                    "type": "attachment",
                    "attachment": {"type": "queued_command", "prompt": text, "source_uuid": uuid},
                }
            )
            if uuid:
                self.this.uuids.append(uuid)
                self.lifecycle(uuid, "started")

    def model_answer(self) -> Steps:
        """One answer of the model. Returns (HTTP status if the API failed, the tool_use blocks)."""
        turn = self.this
        partial = "--include-partial-messages" in self.options
        if partial:
            self.say({"type": "system", "subtype": "status", "status": "requesting"})
        actions = script.reply(self.messages)
        usage = script.usage_of(self.messages, FIXED_TOKENS, script.output_tokens_of(actions))
        first_usage = {**usage, "output_tokens": 1}
        head: Frame = {
            "id": "msg_" + new_id().replace("-", "")[:22],
            "type": "message",
            "role": "assistant",
            "model": self.model,
        }
        request_id = "req_" + new_id().replace("-", "")[:20]
        content: list[Frame] = []
        tools: list[Frame] = []

        def event(value: Frame) -> None:
            if partial:
                self.say(
                    {
                        "type": "stream_event",
                        "event": value,
                        "parent_tool_use_id": None,
                        "api_message_id": head["id"],
                    }
                )

        for kind, value in actions:
            if kind == "error":
                return value, []
            if kind == "limit" and self.limit("rejected", value):
                return 429, []
        actions = [action for action in actions if action[0] != "limit"] or [("text", "…")]
        turn.api_calls += 1
        event(
            {
                "type": "message_start",
                "message": {
                    **head,
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": first_usage,
                },
            }
        )
        for kind, value in actions:
            if kind == "wait":
                yield ("sleep", value / 1000)
                continue
            start, delta_kind, field, deltas, between_s = block_parts(kind, value)
            index = len(content)
            event({"type": "content_block_start", "index": index, "content_block": start})
            done = dict(start)
            for delta in deltas:
                if between_s:
                    yield ("sleep", between_s)
                event(
                    {
                        "type": "content_block_delta",
                        "index": index,
                        "delta": {"type": delta_kind, field: delta},
                    }
                )
                if field in done:
                    done[field] += delta
            if kind == "tool":
                done["input"] = value[1]
                tools.append(done)
            elif kind != "thinking":
                turn.text = done["text"]
            content.append(done)
            message = {
                **head,
                "content": [done],
                "stop_reason": None,
                "stop_sequence": None,
                "usage": first_usage,
            }
            self.say(
                {
                    "type": "assistant",
                    "message": message,
                    "parent_tool_use_id": None,
                    "timestamp": now(),
                    "request_id": request_id,
                }
            )
            event({"type": "content_block_stop", "index": index})
        turn.stop_reason = "tool_use" if tools else "end_turn"
        event(
            {
                "type": "message_delta",
                "delta": {"stop_reason": turn.stop_reason, "stop_sequence": None},
                "usage": {"output_tokens": usage["output_tokens"]},
            }
        )
        event({"type": "message_stop"})
        self.book(head["id"], request_id, usage)
        self.messages.append({"role": "assistant", "content": content})
        for index, block in enumerate(content):
            final = {
                **head,
                "content": [block],
                "stop_reason": turn.stop_reason,
                "stop_sequence": None,
                "usage": usage,
            }
            self.keep(
                {"type": "assistant", "message": final, "apiBlockIndex": index, "requestId": request_id}
            )
        return None, tools

    def use_tool(self, tool: Frame) -> Steps:
        """Ask for one tool, run it, and put its result into the conversation."""
        self.this.in_tool = True
        name, tool_use_id = tool["name"], tool["id"]
        try:
            allowed, value = yield from self.permission(name, tool_use_id, tool["input"])
            began = time.monotonic()
            if not allowed:
                self.this.denials.append(
                    {"tool_name": name, "tool_use_id": tool_use_id, "tool_input": tool["input"]}
                )
                self.record("tool", tool=name, tool_use_id=tool_use_id, ran=False)
                self.tool_result(tool_use_id, value, is_error=True, raw=f"Error: {value}")
                return
            self.record("tool", tool=name, tool_use_id=tool_use_id, ran=True, input=value)
            text, is_error, raw = yield from self.run_tool(name, value)
        except Interrupted:
            self.tool_result(tool_use_id, REJECTED, is_error=True, raw="User rejected tool use")
            raise
        if not is_error:
            body = {
                "tool_name": name,
                "tool_input": value,
                "tool_response": raw,
                "tool_use_id": tool_use_id,
                "duration_ms": int((time.monotonic() - began) * 1000),
            }
            yield from self.call_hooks("PostToolUse", name, body)
        self.tool_result(tool_use_id, text, is_error=is_error, raw=raw)
        self.this.in_tool = False

    def tool_result(self, tool_use_id: str, text: str, *, is_error: bool, raw: Any) -> None:
        block = {"type": "tool_result", "content": text, "is_error": is_error, "tool_use_id": tool_use_id}
        self.user_frame([block], tool_use_result=raw)

    def user_frame(self, content: list[Frame], **more: Any) -> None:
        message = {"role": "user", "content": content}
        self.this.results += 1
        self.messages.append(message)
        self.say({"type": "user", "message": message, "parent_tool_use_id": None, "timestamp": now(), **more})
        kept: Frame = {"type": "user", "message": message, "promptId": self.this.prompt_id}
        self.keep({**kept, "toolUseResult": more["tool_use_result"]} if more else kept)

    # --- permission -------------------------------------------------------------------------------

    def permission(self, name: str, tool_use_id: str, value: Frame) -> Steps:
        """Whether the tool may run: `(True, input)` or `(False, why not)`."""
        if name not in TOOLS:
            return False, f"<tool_use_error>Error: No such tool available: {name}</tool_use_error>"
        verdict, value, reason = yield from self.call_hooks(
            "PreToolUse", name, {"tool_name": name, "tool_input": value, "tool_use_id": tool_use_id}, value
        )
        if verdict == "deny":
            return False, reason
        interactive = name in ("AskUserQuestion", "ExitPlanMode")
        if (
            not interactive
            and verdict != "ask"
            and (verdict == "allow" or self.needs_no_question(name, value))
        ):
            return True, value
        if self.options.get("--permission-prompt-tool") != "stdio" or (
            self.mode == "dontAsk" and not interactive
        ):
            self.say(
                {
                    "type": "system",
                    "subtype": "permission_denied",
                    "tool_name": name,
                    "tool_use_id": tool_use_id,
                }
            )
            return False, f"Claude requested permissions to use {name}, but you haven't granted it yet."
        request: Frame = {"subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": value}
        if not interactive:
            request["description"] = value.get("description") or os.path.basename(
                str(value.get("file_path", name))
            )
        if verdict == "ask":
            request |= {
                "decision_reason": reason,
                "decision_reason_type": "hook",
                "decision_reason_hook_event": "PreToolUse",
            }
        elif not interactive:
            request["permission_suggestions"] = self.suggestions(name, value)
        request["tool_use_id"] = tool_use_id
        if interactive:
            request["requires_user_interaction"] = True
        answer = yield from self.ask_host(request)
        if answer["subtype"] != "success":
            return False, f"Tool permission request failed: {answer.get('error', answer['subtype'])}"
        decision = answer.get("response") or {}
        if decision.get("behavior") == "allow":
            self.learn(decision.get("updatedPermissions") or [])
            return True, decision.get("updatedInput") or value
        if decision.get("behavior") == "deny" and isinstance(decision.get("message"), str):
            self.this.stopped = bool(decision.get("interrupt"))
            return False, decision["message"]
        return False, BAD_RESULT

    def call_hooks(self, event: str, name: str, body: Frame, value: Frame | None = None) -> Steps:
        """Call the host's hooks for the event. Returns (allow|ask|deny|None, the input, the reason)."""
        verdict: str | None = None
        reason = ""
        value = value if value is not None else {}
        common = {
            "session_id": self.session_id,
            "transcript_path": self.transcript,
            "cwd": self.cwd,
            "prompt_id": self.this.prompt_id,
            "permission_mode": self.mode,
            "hook_event_name": event,
        }
        for matcher in self.hooks.get(event, []):
            if matcher.get("matcher") not in (None, "", "*") and not re.fullmatch(matcher["matcher"], name):
                continue
            for callback_id in matcher.get("hookCallbackIds", []):
                request = {
                    "subtype": "hook_callback",
                    "callback_id": callback_id,
                    "input": {**common, **body},
                    "tool_use_id": body["tool_use_id"],
                }
                answer = yield from self.ask_host(request, float(matcher.get("timeout") or HOOK_TIMEOUT_S))
                if answer["subtype"] in ("timeout", "cancelled"):
                    return "deny", value, f"{event}:{name} hook {answer['subtype']}"
                given = answer.get("response") or {}
                own = given.get("hookSpecificOutput") or {}
                value = own.get("updatedInput") or value
                said = own.get("permissionDecision") or {"block": "deny", "approve": "allow"}.get(
                    str(given.get("decision"))
                )
                if said in ("allow", "ask", "deny") and verdict != "deny":
                    verdict = said
                    reason = own.get("permissionDecisionReason") or given.get("reason") or ""
                    if said == "deny":
                        reason = f"{event}:{name} hook error: {reason}"
                if given.get("continue") is False:
                    self.this.stopped = True
        return verdict, value, reason

    def needs_no_question(self, name: str, value: Frame) -> bool:
        """Whether mode and rules let the tool run without asking."""
        if self.mode == "bypassPermissions":
            return True
        command = str(value.get("command", ""))
        plain = not re.search(r"[;&|<>$`\\\n(){}*?~]", command)
        word = command.split(" ", 1)[0]
        for tool, content in self.rules:
            if tool == name and (
                content is None
                or content == command
                or (content.endswith(" *") and plain and (command + " ").startswith(content[:-1]))
            ):
                return True
        if name == "Bash":
            return plain and (word in READS_ONLY or (self.mode == "acceptEdits" and word in EDITS))
        path = os.path.realpath(
            os.path.join(self.cwd, str(value.get("file_path") or value.get("path") or ""))
        )
        inside = path == os.path.realpath(self.cwd) or path.startswith(os.path.realpath(self.cwd) + os.sep)
        if name in ("Read", "Glob", "Grep"):
            return inside
        return inside and name in ("Write", "Edit") and self.mode == "acceptEdits"

    def suggestions(self, name: str, value: Frame) -> list[Frame]:
        mode = {"type": "setMode", "mode": "acceptEdits", "destination": "session"}
        if name != "Bash":
            return [mode] if name in ("Write", "Edit") else []
        rule = {"toolName": "Bash", "ruleContent": value.get("command", "")}
        return [
            {"type": "addRules", "rules": [rule], "behavior": "allow", "destination": "localSettings"},
            mode,
        ]

    def learn(self, updates: list[Frame]) -> None:
        """Take the `updatedPermissions` of an answer, for this session whatever their destination."""
        for update in updates:
            if update.get("type") == "setMode" and update.get("mode") in MODES:
                self.mode = update["mode"]
                self.say({"type": "system", "subtype": "status", "status": None, "permissionMode": self.mode})
            elif update.get("type") == "addRules" and update.get("behavior") == "allow":
                self.rules += [
                    (rule["toolName"], rule.get("ruleContent")) for rule in update.get("rules", [])
                ]

    # --- tools ------------------------------------------------------------------------------------

    def run_tool(self, name: str, value: Frame) -> Steps:
        """Run an allowed tool. Returns (its text, whether that is an error, the raw result)."""
        if name == "Bash":
            return (yield from self.bash(str(value.get("command", ""))))
        if name in ("Read", "Write"):
            path = os.path.join(self.cwd, str(value.get("file_path", "")))
            try:
                return self.read(path) if name == "Read" else self.write(path, str(value.get("content", "")))
            except OSError as error:
                return f"{error.strerror}: {path}", True, f"Error: {error.strerror}"
        if name == "AskUserQuestion":
            answers = value.get("answers") or {}
            raw = {"questions": value.get("questions", []), "answers": answers}
            if not answers:
                return "The user did not answer the questions.", False, raw
            said = ", ".join(f'"{question}"="{answer}"' for question, answer in answers.items())
            text = (
                f"Your questions have been answered: {said}. You can now continue with these answers in mind."
            )
            return text, False, raw
        if name == "ExitPlanMode":
            if self.mode == "plan":
                self.mode = "default"
                self.say({"type": "system", "subtype": "status", "status": None, "permissionMode": self.mode})
            raw = {"plan": value.get("plan"), "isAgent": False}
            return "User has approved exiting plan mode. You can now proceed.", False, raw
        return f"The scripted agent has no {name}.", True, f"Error: no {name}"

    def read(self, path: str) -> tuple[str, bool, Frame]:
        with open(path, errors="replace") as file:
            lines = file.read(MAX_OUTPUT).splitlines()
        text = "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1))
        content = {"filePath": path, "content": "\n".join(lines), "numLines": len(lines), "startLine": 1}
        return text or "(the file is empty)", False, {"type": "text", "file": content}

    def write(self, path: str, content: str) -> tuple[str, bool, Frame]:
        kind = "update" if os.path.exists(path) else "create"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(content)
        return (
            f"File {kind}d successfully at: {path}",
            False,
            {"type": kind, "filePath": path, "content": content},
        )

    def bash(self, command: str) -> Steps:
        read, write = os.pipe()
        os.set_blocking(read, False)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, write, 1),
            (os.POSIX_SPAWN_DUP2, write, 2),
        ]
        shell = "/bin/bash" if os.path.exists("/bin/bash") else "/bin/sh"
        signals = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)
        pid = os.posix_spawn(
            shell, [shell, "-c", command], os.environ, file_actions=actions, setpgroup=0, setsigdef=signals
        )
        os.close(write)
        self.child = (pid, read, [])
        code, output = yield ("child", pid)
        text = output.decode(errors="replace").rstrip()[:MAX_OUTPUT]
        raw = {
            "stdout": text,
            "stderr": "",
            "interrupted": False,
            "isImage": False,
            "noOutputExpected": not text,
        }
        if code:
            return f"Exit code {code}\n{text}".rstrip(), True, f"Error: Exit code {code}\n{text}".rstrip()
        return text or "(Bash completed with no output)", False, raw

    # --- what a turn leaves -----------------------------------------------------------------------

    def init_frame(self) -> None:
        self.say(
            {
                "type": "system",
                "subtype": "init",
                "cwd": self.cwd,
                "tools": list(TOOLS),
                "mcp_servers": [],
                "model": self.model,
                "permissionMode": self.mode,
                "slash_commands": [],
                "apiKeySource": "none",
                "claude_code_version": VERSION,
                "output_style": "default",
                "agents": [],
                "skills": [],
                "plugins": [],
                "scripted": True,
            }
        )

    def book(self, message_id: str, request_id: str, usage: Frame) -> None:
        """Add one answer's usage to the turn's and to the session's."""
        price = script.PRICES.get(script.canonical_model(self.model), MODEL_PRICE)
        cost = script.cost(usage, price)
        split = usage["cache_creation"]
        amounts = (
            usage["input_tokens"],
            usage["output_tokens"],
            usage["cache_read_input_tokens"],
            split["ephemeral_5m_input_tokens"],
            split["ephemeral_1h_input_tokens"],
            cost,
        )
        row = self.usage.setdefault(self.model, [0] * 6)
        for position, amount in enumerate(amounts):
            row[position] += amount
        self.this.usage = add(self.this.usage, usage)
        self.record(
            "bill",
            message_id=message_id,
            request_id=request_id,
            model=self.model,
            usage=usage,
            cost_picodollars=cost,
        )

    def total(self) -> int:
        """What the session has cost, in 10^-12 dollars."""
        return sum(row[5] for row in self.usage.values())

    def model_usage(self) -> Frame:
        return {
            model: {
                "inputTokens": row[0],
                "outputTokens": row[1],
                "cacheReadInputTokens": row[2],
                "cacheCreationInputTokens": row[3] + row[4],
                "webSearchRequests": 0,
                "costUSD": row[5] / 1e12,
                "contextWindow": 1_000_000,
                "maxOutputTokens": 128_000,
                "thinkingTokens": 0,
                "cacheCreationEphemeral5mInputTokens": row[3],
                "cacheCreationEphemeral1hInputTokens": row[4],
                "canonicalModel": script.canonical_model(model),
                "provider": "scripted",
                "costBasis": "list",
            }
            for model, row in self.usage.items()
        }

    def result(self, reason: str, failed: int | None = None) -> None:
        turn = self.this
        zero = {
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
            "service_tier": "standard",
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        }
        duration = int((time.monotonic() - turn.started) * 1000)
        frame: Frame = {
            "type": "result",
            "duration_ms": duration,
            "duration_api_ms": duration,
            "stop_reason": turn.stop_reason,
            "total_cost_usd": self.total() / 1e12,
            "usage": turn.usage or zero,
            "modelUsage": self.model_usage(),
            "permission_denials": turn.denials,
            "terminal_reason": reason,
            "num_turns": turn.api_calls or 1,
            "result_index": self.result_index,
            "api_error_status": failed,
        }
        self.result_index += 1
        if turn.uuids:
            frame["user_message_uuids"] = turn.uuids
        if reason.startswith("aborted"):
            diagnostic = f"[ede_diagnostic] result_type=user stop_reason={turn.stop_reason}"
            frame |= {
                "subtype": "error_during_execution",
                "is_error": True,
                "num_turns": 1 + turn.results,
                "errors": [diagnostic],
            }
        elif failed:
            text = f"API Error: {failed} scripted error {failed}"
            if failed == 429 and self.limited:
                text = "You've hit your limit · resets soon"
            message = {
                "id": new_id(),
                "type": "message",
                "role": "assistant",
                "model": "<synthetic>",
                "stop_reason": "stop_sequence",
                "content": [{"type": "text", "text": text}],
                "usage": zero,
            }
            self.say(
                {
                    "type": "assistant",
                    "message": message,
                    "parent_tool_use_id": None,
                    "timestamp": now(),
                    "error": "server_error",
                    "is_api_error_message": True,
                    "api_error_status": failed,
                }
            )
            frame |= {"subtype": "success", "is_error": True, "result": text, "stop_reason": "stop_sequence"}
        else:
            frame |= {"subtype": "success", "is_error": False, "result": "" if turn.stopped else turn.text}
        self.say(frame)

    # --- the transcript ---------------------------------------------------------------------------

    def keep(self, line: Frame, uuid: str | None = None) -> None:
        """Write a line of the conversation."""
        uuid = uuid or new_id()
        self.append(
            {
                "parentUuid": self.last_uuid,
                "isSidechain": False,
                **line,
                "uuid": uuid,
                "timestamp": now(),
                "userType": "external",
                "entrypoint": "sdk-cli",
                "cwd": self.cwd,
                "sessionId": self.session_id,
                "version": VERSION,
            }
        )
        self.last_uuid = uuid

    def append(self, line: Frame) -> None:
        append_line(self.transcript, line)

    def load(self) -> bool:
        """Take the conversation of `--resume` from its transcript. Returns whether there is one."""
        if not os.path.exists(self.transcript):
            folders = os.listdir(self.projects) if os.path.isdir(self.projects) else []
            found = [os.path.join(self.projects, folder, self.session_id + ".jsonl") for folder in folders]
            found = [path for path in found if os.path.exists(path)]
            if not found:
                return False
            self.transcript = found[0]
        pending: list[str] = []  # prompts without any answer: sent again, they run again
        with open(self.transcript, "rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue  # cut short when its writer was killed
                kind = line.get("type")
                if kind == "assistant":
                    self.seen.update(pending)
                    pending = []
                    self.messages.append({"role": "assistant", "content": line["message"]["content"]})
                elif kind == "user":
                    self.messages.append(line["message"])
                    pending.append(line["uuid"])
                elif kind == "attachment" and line["attachment"].get("type") == "queued_command":
                    self.messages.append(
                        {"role": "system", "content": script.MID_TURN + line["attachment"]["prompt"]}
                    )
                    pending.append(str(line["attachment"].get("source_uuid")))
                elif kind == "cost-state":
                    self.usage = {
                        model: [
                            row["inputTokens"],
                            row["outputTokens"],
                            row["cacheReadInputTokens"],
                            row["cacheCreationEphemeral5mInputTokens"],
                            row["cacheCreationEphemeral1hInputTokens"],
                            round(row["costUSD"] * 1e12),
                        ]
                        for model, row in line["modelUsage"].items()
                    }
                self.last_uuid = line.get("uuid") or self.last_uuid
        return True

    def close(self, code: int) -> None:
        """The end, unless killed: the cost goes into the transcript, if there is one."""
        if not self.broken and os.path.exists(self.transcript):
            self.append(
                {
                    "type": "cost-state",
                    "sessionId": self.session_id,
                    "totalCostUSD": self.total() / 1e12,
                    "totalDuration": int((time.monotonic() - self.started) * 1000),
                    "modelUsage": self.model_usage(),
                    "hasUnknownModelCost": False,
                }
            )
        self.record("exit", code=code)

    def record(self, kind: str, **fields: Any) -> None:
        path = os.environ.get("POINTSMAN_SCRIPTED_RECORD")
        if path:
            append_line(
                path,
                {
                    "at": time.time(),
                    "pid": os.getpid(),
                    "session": os.environ.get("POINTSMAN_SESSION"),
                    "session_id": self.session_id,
                    "kind": kind,
                    **fields,
                },
            )


def block_parts(kind: str, value: Any) -> tuple[Frame, str, str, list[str], float]:
    """How a block streams: its start, the deltas' type and field, the deltas, the seconds before each."""
    if kind == "tool":
        start = {
            "type": "tool_use",
            "id": "toolu_" + new_id().replace("-", "")[:22],
            "name": value[0],
            "input": {},
        }
        return start, "input_json_delta", "partial_json", [json.dumps(value[1])], 0.0
    if kind == "thinking":
        return (
            {"type": "thinking", "thinking": "", "signature": "c2NyaXB0ZWQ="},
            "thinking_delta",
            "thinking",
            [value],
            0.0,
        )
    if kind == "stream":
        words = [f"w{number} " for number in range(value[0])]
        return {"type": "text", "text": ""}, "text_delta", "text", words, value[1] / 1000
    half = len(value) // 2
    return (
        {"type": "text", "text": ""},
        "text_delta",
        "text",
        [part for part in (value[:half], value[half:]) if part],
        0.0,
    )


def add(left: Frame, right: Frame) -> Frame:
    """Two usages added, number by number."""
    if not left:
        return right
    total: Frame = {}
    for key, value in right.items():
        if isinstance(value, dict):
            total[key] = add(left[key], value)
        else:
            total[key] = left[key] + value if isinstance(value, int) else value
    return total


def append_line(path: str, line: Frame) -> None:
    """Append one JSON line in one write, making the file and its folder when they are not there."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, flags, 0o600)
    try:
        os.write(fd, compact(line) + b"\n")
    finally:
        os.close(fd)


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogateescape")


def new_id() -> str:
    """A random UUID (version 4), without the module `uuid`."""
    text = os.urandom(16).hex()
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


def now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"


def options_of(arguments: list[str]) -> dict[str, str]:
    """The command line as flag → value; flags without a value have an empty one, unknown ones are taken."""
    options = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        options[name] = value if equals else next(rest, "") if name in FLAGS_WITH_VALUE else ""
    short = {"-r": "--resume", "-p": "--print", "-v": "--version"}
    return {short.get(name, name): value for name, value in options.items()}


def fail(message: str) -> NoReturn:
    os.write(2, message.encode() + b"\n")
    sys.exit(1)


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
    agent = Agent(options)
    if "--resume" in options:
        if not agent.load():
            error = f"No conversation found with session ID: {agent.session_id}"
            agent.say(
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
    elif os.path.exists(agent.transcript):
        fail(f"Error: Session ID {agent.session_id} is already in use.")
    try:
        code = agent.run()
    except BrokenPipeError:
        code = 1
    agent.close(code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
