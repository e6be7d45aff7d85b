"""Running an agent program (the real Claude Code CLI, or one that stands in for it) in stdio mode, for tests.

`clean_env` is the environment in which the real CLI talks to a scripted API and to nothing else.
`StdioAgent` runs the program with pipes; every wait has a deadline, and a wait that fails says which frames
there were instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

Frame = dict[str, Any]
Predicate = Callable[[Frame], bool]

STDIO_ARGS = (
    "-p",
    "--input-format",
    "stream-json",
    "--output-format",
    "stream-json",
    "--verbose",
    "--permission-prompt-tool",
    "stdio",
)
"""What makes `claude` speak frames on stdin and stdout; in every version."""

DEADLINE_S = 60.0
"""How long a frame may take. The real CLI answers within 0.5 s; this is for a machine under load."""

API_KEY = "test-key"


def clean_env(home: Path, base_url: str, **extra: str) -> dict[str, str]:
    """The whole environment for the real CLI: `home` is its HOME, `base_url` the scripted API.

    Nothing of the caller's environment goes in but PATH: no account, no proxy, no configuration.
    """
    return {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": base_url,
        "ANTHROPIC_API_KEY": API_KEY,
        "DISABLE_TELEMETRY": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_ERROR_REPORTING": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_MAX_RETRIES": "2",
        **extra,
    }


def subscribed(environment: dict[str, str]) -> dict[str, str]:
    """The same for an account with a subscription, as far as the scripted API and the CLI can tell."""
    return {k: v for k, v in environment.items() if k != "ANTHROPIC_API_KEY"} | {
        "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-test"
    }


def user_frame(text: str, uuid: str | None = None) -> Frame:
    """A prompt as it is written to the agent's stdin."""
    frame: Frame = {
        "type": "user",
        "message": {"role": "user", "content": text},
        "parent_tool_use_id": None,
        "session_id": "",
    }
    return {**frame, "uuid": uuid} if uuid else frame


def is_type(kind: str, subtype: str | None = None) -> Predicate:
    """Frames of this type (and `subtype`, for a control request that of its request)."""

    def matches(frame: Frame) -> bool:
        found = frame.get("request", frame).get("subtype")
        return frame.get("type") == kind and (subtype is None or found == subtype)

    return matches


def answers_to(request_id: str) -> Predicate:
    """The control response to our own request."""
    return lambda frame: (
        frame.get("type") == "control_response" and frame["response"]["request_id"] == request_id
    )


class AgentTimeoutError(AssertionError):
    """The frame did not come in time; the message lists what came instead."""


class StdioAgent:
    """One process of the agent. A context manager: on leaving, the process is gone, killed if need be.

    `frames` holds every frame that it has written, in order. Each `wait…` looks at the frames from `since`
    on (an index into `frames`, see `mark`), and raises `AgentTimeoutError` at its deadline or when the agent
    ends without it.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        cwd: Path,
        args: Sequence[str] = STDIO_ARGS,
    ) -> None:
        self.frames: list[Frame] = []
        self.not_json: list[str] = []
        self._changed = threading.Condition()
        self._eof = False
        self._stderr: list[bytes] = []
        self.process = subprocess.Popen(
            [str(part) for part in (*command, *args)], env=dict(env), cwd=cwd,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._drain)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> StdioAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join(5)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stderr(self) -> str:
        return b"".join(self._stderr).decode(errors="replace")

    def mark(self) -> int:
        """The present end of `frames`: pass it as `since` to look only at what comes afterwards."""
        with self._changed:
            return len(self.frames)

    def send(self, frame: Frame) -> None:
        self.send_raw(json.dumps(frame).encode() + b"\n")

    def send_raw(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self, predicate: Predicate, *, since: int = 0, timeout_s: float = DEADLINE_S) -> Frame:
        """The first frame from `since` on for which the predicate holds."""
        deadline = time.monotonic() + timeout_s
        position = since
        with self._changed:
            while True:
                while position < len(self.frames):
                    frame = self.frames[position]
                    position += 1
                    if predicate(frame):
                        return frame
                left = deadline - time.monotonic()
                if left <= 0 or self._eof:
                    why = "the agent ended" if self._eof else f"{timeout_s} s passed"
                    seen = "\n  ".join(json.dumps(frame)[:300] for frame in self.frames[since:][-25:])
                    raise AgentTimeoutError(
                        f"{why} without the frame; since then:\n  {seen}\nstderr: {self.stderr[-2000:]}"
                    )
                self._changed.wait(left)

    def prompt(self, text: str, uuid: str | None = None) -> int:
        """Send a prompt; returns the mark before it."""
        mark = self.mark()
        self.send(user_frame(text, uuid))
        return mark

    def turn(self, text: str, uuid: str | None = None, *, timeout_s: float = DEADLINE_S) -> Frame:
        """Send a prompt and wait for its `result` frame."""
        return self.wait(is_type("result"), since=self.prompt(text, uuid), timeout_s=timeout_s)

    def ask(self, subtype: str, **fields: Any) -> Frame:
        """Send a control request; returns the `response` of its answer: `{"subtype": "success"|"error",
        …}`."""
        request_id = f"req_{uuids.uuid4().hex[:8]}"
        mark = self.mark()
        self.send(
            {"type": "control_request", "request_id": request_id, "request": {"subtype": subtype, **fields}}
        )
        response: Frame = self.wait(answers_to(request_id), since=mark)["response"]
        return response

    def respond(self, request: Frame, response: Frame) -> None:
        """Answer a control request of the agent (`can_use_tool`, `hook_callback`) with success."""
        answer = {"subtype": "success", "request_id": request["request_id"], "response": response}
        self.send({"type": "control_response", "response": answer})

    def allow(self, request: Frame, **more: Any) -> None:
        self.respond(request, {"behavior": "allow", "updatedInput": request["request"]["input"], **more})

    def deny(self, request: Frame, message: str = "no") -> None:
        self.respond(request, {"behavior": "deny", "message": message})

    def question(self, *, since: int = 0) -> Frame:
        """The next `can_use_tool` request."""
        return self.wait(is_type("control_request", "can_use_tool"), since=since)

    def select(self, kind: str, subtype: str | None = None, *, since: int = 0) -> list[Frame]:
        """All frames of a type that have come by now."""
        with self._changed:
            return [frame for frame in self.frames[since:] if is_type(kind, subtype)(frame)]

    def wait_exit(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit code; all frames are in `frames` then."""
        code = self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join(timeout_s)
        return code

    def _lines(self) -> Iterator[bytes]:
        assert self.process.stdout is not None
        yield from self.process.stdout

    def _read(self) -> None:
        for line in self._lines():
            try:
                frame = json.loads(line)
            except ValueError:
                self.not_json.append(line.decode(errors="replace"))
                continue
            with self._changed:
                self.frames.append(frame)
                self._changed.notify_all()
        with self._changed:
            self._eof = True
            self._changed.notify_all()

    def _drain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._stderr.append(line)
