"""The window's running view: frames of the agent, and lines to it, as text for a terminal. Pure.

It shows what a person wants to follow: prompts, answers as they stream, tools with a summary and the start of
their results, what waits for approval, the end of each turn with its cost. It never fails: a frame that it
does not know or cannot read is shown as nothing. Text from the agent is made harmless first
(`text.harmless`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from bus.ids import approval_id
from services.bridge.text import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    RESET,
    YELLOW,
    Wrapper,
    harmless,
    one_line,
    wrapped,
)

RESULT_LINES = 4  # of a tool's result
RESULT_CHARS = 600
SUMMARY_CHARS = 120
SUMMARY_KEYS = ("command", "file_path", "path", "pattern", "url", "query", "prompt", "description", "skill")
MARGIN = "  "

Frame = dict[str, Any]


class View:
    """One session's view. Every method returns the text to append to the screen, perhaps none.

    ``width`` may be set at any time (the window was resized).
    """

    def __init__(self, uid: str, process: int, width: int = 80) -> None:
        self.width = width
        self._uid = uid
        self._process = process
        self._stream: Wrapper | None = None  # a text block is being streamed
        self._streamed: str | None = None  # message id whose texts were streamed
        self._message: str | None = None  # message id that streams now
        self._open: dict[str, str] = {}  # request id → tool, for questions
        self._settings: tuple[Any, ...] = ()
        self._tools: dict[str, str] = {}  # tool_use_id → tool

    # ── around the conversation ──────────────────────────────────────────────────────────────────────────

    def header(self, session: str, cwd: str, argv: list[str], *, again: bool) -> str:
        """The first lines of a window, or one dim line when an earlier bridge was here."""
        if again:
            return self.note("the bridge was started again; the agent was not disturbed")
        name = one_line(session, 63)
        program = one_line(argv[0].rpartition("/")[2], 40)
        rule = "─" * max(20, min(self.width, 100))
        how = (
            "This window shows the session; keys typed here do not reach the agent.\n"
            f"Send: pointsman send {name} TEXT · stop the turn: pointsman interrupt {name} · "
            "leave: Ctrl-b, then d"
        )
        return (
            f"{DIM}{rule}{RESET}\n"
            f"{BOLD}{name}{RESET}  {program} in {one_line(cwd, 200)}\n"
            f"{DIM}{wrapped(how, self.width, '')}"
            f"{rule}{RESET}\n"
        )

    def hint(self, session: str) -> str:
        """After a key was pressed."""
        return self.note(f"keys do not reach the agent; type elsewhere: pointsman send {session} 'your text'")

    def note(self, text: str) -> str:
        """A dim word of our own."""
        return f"{self._break()}{DIM}{wrapped(one_line(text, 500), self.width, MARGIN, '· ')}{RESET}"

    def stderr(self, text: str) -> str:
        """What the agent wrote to its stderr."""
        return f"{self._break()}{DIM}{wrapped(text, self.width, MARGIN, '! ')}{RESET}" if text.strip() else ""

    # ── the conversation ─────────────────────────────────────────────────────────────────────────────────

    def frame(self, line: bytes) -> str:
        """One line from the agent."""
        frame = _decoded(line)
        if frame is None:
            return self.note(line.decode("utf-8", "replace")) if line.strip() else ""
        kind = frame.get("type")
        show = _FRAMES.get(kind) if isinstance(kind, str) else None
        try:
            return show(self, frame) if show else ""
        except RecursionError:  # a value nested just as deeply as the decoder takes it
            return self.note(f"a frame of {len(line)} bytes is nested too deeply to be shown")

    def line(self, line: bytes) -> str:
        """One line that was written to the agent."""
        frame = _decoded(line) or {}
        if frame.get("type") == "user":
            text = _text_of(_dict(frame.get("message")).get("content"))
            return (
                f"{self._break()}\n{BOLD}{CYAN}{wrapped(text, self.width, MARGIN, '❯ ')}{RESET}"
                if text
                else ""
            )
        if frame.get("type") == "control_response":
            response = _dict(frame.get("response"))
            tool = self._open.pop(str(response.get("request_id")), None)
            if tool is None:
                return ""
            answer = _dict(response.get("response"))
            if answer.get("behavior") == "allow":
                return f"{self._break()}{GREEN}  ✓ approved: {tool}{RESET}\n"
            why = one_line(str(answer.get("message") or "no reason given"), SUMMARY_CHARS)
            return f"{self._break()}{RED}  ✗ denied: {tool}: {why}{RESET}\n"
        request = _dict(frame.get("request"))
        if frame.get("type") == "control_request" and request.get("subtype") == "interrupt":
            return self.note("interrupt")
        return ""

    def _break(self) -> str:
        """End a text that is streaming, so that something else can be shown."""
        if self._stream is None:
            return ""
        rest = self._stream.finish()
        self._stream = None
        return rest + "\n"

    def _system(self, frame: Frame) -> str:
        subtype = frame.get("subtype")
        if subtype == "init":
            settings = tuple(frame.get(key) for key in ("model", "permissionMode", "session_id"))
            if settings == self._settings:
                return ""
            self._settings = settings
            model, mode, conversation = (one_line(str(setting), 80) for setting in settings)
            return self.note(f"model {model}, permission mode {mode}, conversation {conversation}")
        if subtype == "compact_boundary":
            return self.note("the conversation was compacted")
        if subtype == "api_retry":
            attempt = f"{_number(frame.get('attempt')):.0f}"
            return f"{self._break()}{YELLOW}  API error, trying again (attempt {attempt}){RESET}\n"
        if subtype == "permission_denied":
            return f"{self._break()}{RED}  ✗ denied by the agent's own rules{RESET}\n"
        return ""

    def _stream_event(self, frame: Frame) -> str:
        if frame.get("parent_tool_use_id"):
            return ""  # a subagent's: its finished blocks are shown
        event = _dict(frame.get("event"))
        kind = event.get("type")
        if kind == "message_start":
            self._message = str(_dict(event.get("message")).get("id"))
        elif kind == "content_block_delta":
            delta = _dict(event.get("delta"))
            text = delta.get("text")
            if delta.get("type") == "text_delta" and isinstance(text, str):
                start = ""
                if self._stream is None:
                    self._stream = Wrapper(self.width, MARGIN)
                    self._streamed = self._message
                    start = "● "
                return start + self._stream.feed(harmless(text))
        elif kind == "content_block_stop":
            return self._break()
        return ""

    def _assistant(self, frame: Frame) -> str:
        message = _dict(frame.get("message"))
        streamed = self._streamed is not None and message.get("id") == self._streamed
        sub = bool(frame.get("parent_tool_use_id"))
        out = ""
        for block in _blocks(message.get("content")):
            kind = block.get("type")
            if kind == "text" and not (streamed and not sub):
                text = str(block.get("text", ""))
                body = wrapped(text, self.width, MARGIN * 2 if sub else MARGIN, "  ⎿ " if sub else "● ")
                out += self._break() + (f"{DIM}{body}{RESET}" if sub else body)
            elif kind == "tool_use":
                out += self._break() + self._tool(block, sub=sub)
        return out

    def _tool(self, block: Frame, *, sub: bool) -> str:
        name = one_line(str(block.get("name")), 60)
        self._tools[str(block.get("id"))] = name
        if len(self._tools) > 1000:  # results that never came
            del self._tools[next(iter(self._tools))]
        space = "    " if sub else ""
        return f"{space}{CYAN}▸ {name}{RESET} {summary(block.get('input'), self.width - len(name) - 8)}\n"

    def _user(self, frame: Frame) -> str:
        """Results of tools."""
        out = ""
        for block in _blocks(_dict(frame.get("message")).get("content")):
            if block.get("type") == "tool_result":
                self._tools.pop(str(block.get("tool_use_id")), None)
                text = _text_of(block.get("content"))
                colour = RED if block.get("is_error") else DIM
                out += f"{self._break()}{colour}{wrapped(cut(text), self.width, '    ', '  ⎿ ')}{RESET}"
        return out

    def _control_request(self, frame: Frame) -> str:
        request = _dict(frame.get("request"))
        if request.get("subtype") != "can_use_tool":
            return ""
        key = str(frame.get("request_id"))
        tool = one_line(str(request.get("tool_name")), 60)
        again = key in self._open
        self._open[key] = tool
        if len(self._open) > 1000:  # answers that never came
            del self._open[next(iter(self._open))]
        if again:
            return ""
        given = request.get("input")
        lines = [f"{self._break()}{YELLOW}{BOLD}⏸ waiting for approval: {tool}{RESET}{YELLOW}"]
        questions = _dict(given).get("questions")
        verb = "approve"
        if tool == "ExitPlanMode" and not _dict(given).get("plan"):
            pass  # the plan was shown with the tool
        elif tool == "ExitPlanMode":
            lines.append(wrapped(str(_dict(given).get("plan", "")), self.width, "    ").rstrip("\n"))
        elif tool == "AskUserQuestion" and isinstance(questions, list):
            verb = "answer"
            for question in map(_dict, questions):
                labels = " | ".join(str(option.get("label")) for option in _blocks(question.get("options")))
                text = f"{question.get('question')}  {labels}"
                lines.append(wrapped(text, self.width, "    ").rstrip("\n"))
        else:
            lines[0] += " " + summary(given, max(40, self.width - len(tool) - 30))
        lines.append(f"    pointsman {verb} {approval_id(self._uid, self._process, key)}{RESET}\n")
        return "\n".join(lines)

    def _cancel(self, frame: Frame) -> str:
        tool = self._open.pop(str(frame.get("request_id")), None)
        return self.note(f"no longer asked: {tool}") if tool else ""

    def _result(self, frame: Frame) -> str:
        self._streamed = self._message = None
        turns, cost, took = (
            _number(frame.get(key)) for key in ("num_turns", "total_cost_usd", "duration_ms")
        )
        facts = f"{turns:.0f} step{'' if turns == 1 else 's'} · {took / 1000:.1f} s · ${cost:.4f} so far"
        if frame.get("is_error") or frame.get("subtype") != "success":
            errors = frame.get("errors")
            said = frame.get("result") or (
                errors[0] if isinstance(errors, list) and errors else frame.get("subtype")
            )
            return f"{self._break()}{RED}■ {one_line(str(said), 300)}{RESET} {DIM}{facts}{RESET}\n"
        return f"{self._break()}{DIM}■ {facts}{RESET}\n"

    def _rate_limit(self, frame: Frame) -> str:
        info = _dict(frame.get("rate_limit_info"))
        status = one_line(str(info.get("status")), 40)
        return (
            "" if status in ("allowed", "None") else f"{self._break()}{YELLOW}  rate limit: {status}{RESET}\n"
        )

    def _oversized(self, frame: Frame) -> str:
        return self.note(f"a frame of {_number(frame.get('bytes')):.0f} bytes is too long to be shown")


_FRAMES = {
    "system": View._system,
    "stream_event": View._stream_event,
    "assistant": View._assistant,
    "user": View._user,
    "control_request": View._control_request,
    "control_cancel_request": View._cancel,
    "result": View._result,
    "rate_limit_event": View._rate_limit,
    "pointsman_oversized": View._oversized,
}


def summary(given: Any, most: int = SUMMARY_CHARS) -> str:
    """A tool's input on one line: its telling field, else all of it."""
    fields = _dict(given)
    for key in SUMMARY_KEYS:
        if isinstance(fields.get(key), str):
            return one_line(fields[key], max(20, most))
    return one_line(", ".join(f"{key}={value}" for key, value in fields.items()), max(20, most))


def cut(text: str) -> str:
    """The start of a tool's result, saying how much more there is."""
    text = text.strip("\n")
    lines = text[:RESULT_CHARS].split("\n")
    shown = "\n".join(lines[:RESULT_LINES])
    left = text.count("\n") + 1 - min(len(lines), RESULT_LINES)
    if left > 0:
        return f"{shown}\n… {left} more line{'' if left == 1 else 's'}"
    return shown + "…" if len(shown) < len(text) else shown or "(nothing)"


def _decoded(line: bytes) -> Frame | None:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _dict(value: Any) -> Frame:
    return value if isinstance(value, dict) else {}


def _blocks(value: Any) -> list[Frame]:
    return [block for block in value if isinstance(block, dict)] if isinstance(value, list) else []


def _text_of(content: Any) -> str:
    """The text of a message's or result's content: a string, or blocks."""
    if isinstance(content, str):
        return content
    texts = [
        str(block["text"]) if block.get("type") == "text" and "text" in block else f"[{block.get('type')}]"
        for block in _blocks(content)
    ]
    return "\n".join(texts)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else 0.0
