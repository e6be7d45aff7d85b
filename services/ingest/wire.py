"""What an agent says, from bytes to typed frames. No I/O; what comes in is accepted or a `WireError`.

Facts about the protocol (recorded from Claude Code 2.1.42, .119 and .329; see tests/recordings): one JSON
object a line, tagged by ``type``. Only the fields that we rely upon are typed, all others are skipped
unread. A type that we do not know is `Unknown` and no error: newer agents say more.

`stream_event` is what an agent says a hundred times a second, so it has a way of its own: one typed decode of
a flat structure (about 1 µs), nothing else. Flat, because a tagged union would refuse a delta of a new kind.

Over 400 lines because it is one glossary: every frame of the agent stands here, and nothing in it decides.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from bus import surrogates
from bus.messages import RunningUsage

# As much as the bridge carries (`bus.bridge_wire.MAX_LINE_BYTES`). The longest line that was tried with
# Claude Code had 3.2 MB; the Messages API takes 32 MB a request, but no frame repeats a whole one.
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_ID_CHARS = 256  # ids, names, modes and versions; the longest recorded has 36 characters


class WireError(Exception):
    """The agent's fault: a line that is no frame. ``too_large`` ends the connection, others are counted."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class LineReader:
    """Bytes of any split → whole lines, without their newline; blank lines are left out."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def pending(self) -> int:
        """Bytes of a line whose end has not come yet."""
        return self._size

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` completes. A message that begins with a line and holds all of a JSON value
        without a newline at its end counts as a line: some agents send one frame a message.

        Raises `WireError` (``too_large``) for a line over the limit; the reader is of no use afterwards.
        """
        *lines, tail = data.split(b"\n")
        if lines and self._size:
            lines[0] = b"".join((*self._parts, lines[0]))
            self._parts, self._size = [], 0
        if tail:
            if not self._size and tail.endswith(b"}") and _is_json(tail):
                lines.append(tail)
            else:
                self._parts.append(tail)
                self._size += len(tail)
        if self._size > self._limit or any(len(line) > self._limit for line in lines):
            raise WireError(f"a line of more than {self._limit} bytes", too_large=True)
        return [line for line in lines if line and not line.isspace()]


# ── frames ───────────────────────────────────────────────────────────────────────────────────────────────


class Delta(Struct, frozen=True, gc=False):
    type: str = ""
    text: str = ""
    thinking: str = ""


class _Started(Struct, frozen=True, gc=False):
    id: str = ""
    model: str = ""
    usage: Raw = Raw(b"{}")


class ApiEvent(Struct, frozen=True, gc=False):
    """The raw event of the Messages API; ``message`` only in message_start, ``usage`` in message_delta."""

    type: str = ""
    index: int = 0
    delta: Delta | None = None
    message: _Started | None = None
    usage: Raw = Raw(b"{}")


class StreamEvent(Struct, frozen=True, gc=False):
    """``api_message_id`` is there from 2.1.329 on; before, the message is that of the last message_start."""

    event: ApiEvent
    uuid: str | None = None
    parent_tool_use_id: str | None = None
    api_message_id: str | None = None


class Block(Struct, frozen=True):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    input: Raw = Raw(b"{}")


class _Message(Struct, frozen=True):
    content: str | list[Block]
    id: str = ""
    model: str | None = None


class Assistant(Struct, frozen=True):
    """One finished content block of an answer (the same ``message.id`` comes once per block)."""

    message: _Message
    uuid: str | None = None
    parent_tool_use_id: str | None = None


class ResultBlock(Struct, frozen=True):
    type: str
    text: str = ""
    tool_use_id: str = ""
    content: Raw = Raw(b'""')
    is_error: bool | None = None


class _UserMessage(Struct, frozen=True):
    content: str | list[ResultBlock]


class User(Struct, frozen=True, rename={"is_replay": "isReplay"}):
    """What the conversation got: tool results, notices of the agent, echoes of prompts (``is_replay``)."""

    message: _UserMessage
    uuid: str | None = None
    parent_tool_use_id: str | None = None
    is_replay: bool = False


class ModelUsage(Struct, frozen=True):
    costUSD: Raw = Raw(b"0")  # noqa: N815  # the agent's name
    inputTokens: int = 0  # noqa: N815
    outputTokens: int = 0  # noqa: N815
    cacheReadInputTokens: int = 0  # noqa: N815
    cacheCreationInputTokens: int = 0  # noqa: N815
    cacheCreationEphemeral5mInputTokens: int | None = None  # noqa: N815  # later than 2.1.119
    cacheCreationEphemeral1hInputTokens: int | None = None  # noqa: N815


class CacheCreation(Struct, frozen=True):
    ephemeral_5m_input_tokens: int = 0
    ephemeral_1h_input_tokens: int = 0


class _Usage(Struct, frozen=True):
    cache_creation: CacheCreation | None = None


class _CallUsage(Struct, frozen=True):
    """Of one model call; what message_delta does not repeat, message_start has said."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None


def usage(raw: Raw, known: RunningUsage | None = None) -> RunningUsage:
    """The tokens of a model call, over what is ``known`` of it. A usage that is none changes nothing.

    A cache write whose time is not told counts as the shorter one.
    """
    known = known or RunningUsage()
    try:
        said = _as(raw, _CallUsage)
    except WireError:
        return known
    written = said.cache_creation
    if written is None and said.cache_creation_input_tokens is not None and not known.cache_write_1h:
        written = CacheCreation(said.cache_creation_input_tokens)
    found = (
        known.input if said.input_tokens is None else said.input_tokens,
        known.output if said.output_tokens is None else said.output_tokens,
        known.cache_read if said.cache_read_input_tokens is None else said.cache_read_input_tokens,
        known.cache_write_5m if written is None else written.ephemeral_5m_input_tokens,
        known.cache_write_1h if written is None else written.ephemeral_1h_input_tokens,
    )
    names = RunningUsage.__struct_fields__
    return RunningUsage(**{k: min(max(v, 0), 10**12) for k, v in zip(names, found, strict=True)})


def counts(of: RunningUsage) -> tuple[int, ...]:
    return msgspec.structs.astuple(of)


class Result(Struct, frozen=True):
    """A turn has ended. ``usage`` is this turn's, ``total_cost_usd`` and ``modelUsage`` count the process."""

    subtype: str = ""
    is_error: bool = False
    uuid: str | None = None
    result: str | None = None
    errors: list[Raw] = []
    num_turns: int = 0
    duration_ms: float = 0
    total_cost_usd: Raw = Raw(b"null")
    usage: Raw = Raw(b"{}")
    modelUsage: dict[str, ModelUsage] = {}  # noqa: N815  # the agent's name
    api_error_status: int | None = None
    user_message_uuids: list[str] | None = None

    def cache_creation(self) -> CacheCreation:
        return _as(self.usage, _Usage).cache_creation or CacheCreation()


class Task(Struct, frozen=True):
    """Something that runs in the background: ``local_agent`` is a subagent, others do not cost anything."""

    task_id: str = ""
    task_type: str = ""


class System(
    Struct,
    frozen=True,
    rename={
        "permission_mode": "permissionMode",
        "version": "claude_code_version",
        "key_source": "apiKeySource",
    },
):
    """``init`` (every turn), ``status`` (compacting, mode), ``api_retry``, ``compact_boundary``,
    ``task_started``, ``task_notification``, ``background_tasks_changed`` (2.1.329), …
    """

    subtype: str = ""
    uuid: str | None = None
    session_id: str | None = None
    model: str | None = None
    permission_mode: str | None = None
    version: str | None = None
    key_source: str | None = None
    status: str | None = None
    attempt: int = 0
    retry_delay_ms: float = 0
    error: str | None = None
    task_id: str | None = None
    task_type: str | None = None
    tasks: list[Task] = []


class CanUseTool(Struct, frozen=True):
    """The agent waits for an answer. ``input`` is the agent's JSON text, byte for byte."""

    tool_name: str
    input: Raw = Raw(b"{}")
    tool_use_id: str | None = None
    agent_id: str | None = None
    description: str | None = None
    decision_reason: str | None = None
    permission_suggestions: list[Any] = []


class HookInput(Struct, frozen=True):
    hook_event_name: str = ""
    tool_name: str | None = None
    tool_use_id: str | None = None
    tool_input: Raw = Raw(b"{}")
    agent_id: str | None = None
    message: str | None = None
    trigger: str | None = None


class HookCallback(Struct, frozen=True):
    callback_id: str = ""
    input: HookInput = HookInput()
    tool_use_id: str | None = None


class ControlRequest(Struct, frozen=True):
    request_id: str
    request: Raw

    def read(self) -> CanUseTool | HookCallback | None:
        """None for a request that we do not know."""
        subtype = _as(self.request, _Subtype).subtype
        if subtype == "can_use_tool":
            asked = _as(self.request, CanUseTool)
            _check_short(asked, "tool_name", "tool_use_id", "agent_id")
            return asked
        if subtype == "hook_callback":
            called = _as(self.request, HookCallback)
            _check_short(called, "tool_use_id")
            _check_short(called.input, "tool_name", "tool_use_id", "agent_id")
            return called
        return None


class _Subtype(Struct, frozen=True):
    subtype: str = ""


class _Answered(Struct, frozen=True):
    request_id: str = ""
    subtype: str = ""
    error: str | None = None
    response: Raw = Raw(b"{}")
    pending_permission_requests: list[Raw] | None = None


class _Pending(Struct, frozen=True):
    pending_permission_requests: list[Raw] | None = None
    text: str = ""


class ControlResponse(Struct, frozen=True):
    """The answer to a request of ours."""

    response: _Answered

    def pending(self) -> list[ControlRequest] | None:
        """Open permission requests that an answer to ``initialize`` lists: beside an error (up to 2.1.119) or
        in the response (2.1.329). None: it lists none at all, which says nothing about them.
        """
        found = self.response.pending_permission_requests
        if found is None and bytes(self.response.response)[:1] == b"{":
            found = _as(self.response.response, _Pending).pending_permission_requests
        return None if found is None else [_as(raw, ControlRequest) for raw in found]

    def text(self) -> str:
        """The text of an answer to ``get_session_cost``; empty if there is none."""
        return _as(self.response.response, _Pending).text if self.response.subtype == "success" else ""


class ControlCancel(Struct, frozen=True):
    """The agent no longer waits for the answer to its request."""

    request_id: str


class CommandLifecycle(Struct, frozen=True):
    """What became of a prompt with a uuid (2.1.329): queued, started, completed."""

    command_uuid: str = ""
    state: str = ""
    uuid: str | None = None


class LimitWindow(Struct, frozen=True, rename="camel"):
    """How much of a window is used; ``resets_at`` in seconds since the epoch."""

    status: str = "allowed"
    resets_at: float | None = None
    utilization: float | None = None


class _LimitInfo(LimitWindow, frozen=True, rename="camel"):
    """The window that counts most; 2.1.329 lists all that there are."""

    rate_limit_type: str = ""
    unified_windows: dict[str, LimitWindow] = {}


class RateLimit(Struct, frozen=True):
    """Only with a login instead of a key, from 2.1.119 on."""

    rate_limit_info: _LimitInfo = _LimitInfo()
    uuid: str | None = None


class ConversationReset(Struct, frozen=True):
    """``/clear``: a new conversation id, and costs count from zero again."""

    new_conversation_id: str | None = None
    uuid: str | None = None


class Unknown(Struct, frozen=True):
    type: str
    uuid: str | None = None


Frame = (
    StreamEvent | Assistant | User | Result | System | ControlRequest | ControlResponse | ControlCancel
    | CommandLifecycle | RateLimit | ConversationReset | Unknown
)  # fmt: skip


class _Head(Struct, frozen=True):
    type: str = ""
    uuid: str | None = None


T = TypeVar("T")
_STREAM = b'{"type":"stream_event"'
_decode_stream = msgspec.json.Decoder(StreamEvent).decode
_decode_head = msgspec.json.Decoder(_Head).decode
_TYPES: dict[str, msgspec.json.Decoder[Any]] = {
    "stream_event": msgspec.json.Decoder(StreamEvent),
    "assistant": msgspec.json.Decoder(Assistant),
    "user": msgspec.json.Decoder(User),
    "result": msgspec.json.Decoder(Result),
    "system": msgspec.json.Decoder(System),
    "control_request": msgspec.json.Decoder(ControlRequest),
    "control_response": msgspec.json.Decoder(ControlResponse),
    "control_cancel_request": msgspec.json.Decoder(ControlCancel),
    "command_lifecycle": msgspec.json.Decoder(CommandLifecycle),
    "rate_limit_event": msgspec.json.Decoder(RateLimit),
    "conversation_reset": msgspec.json.Decoder(ConversationReset),
}
_BAD = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode(line: bytes) -> Frame:
    """One line as a frame. Raises `WireError` for what is none."""
    try:
        return _decode(line)
    except _BAD as error:
        mended = surrogates.whole(line)
        if mended is line:
            raise WireError(f"not a frame: {error}") from None
    return decode(mended)


def _decode(line: bytes) -> Frame:
    if line.startswith(_STREAM):
        return _decode_stream(line)
    if not line.isascii():
        line.decode("utf-8")  # what is passed on unread must be text, too
    head = _decode_head(line)
    decoder = _TYPES.get(head.type)
    if decoder is None:
        return Unknown(head.type[:64], head.uuid)
    frame: Frame = decoder.decode(line)
    _check_short(frame, *_SHORT)
    return frame


# What stands in records, snapshots and tables by which we look things up: an agent that makes them long would
# fill every reader with them.
_SHORT = (
    "task_id", "uuid", "request_id", "parent_tool_use_id", "session_id", "new_conversation_id", "model",
    "permission_mode", "version",
)  # fmt: skip


def _check_short(frame: Struct, *names: str) -> None:
    for name in names:
        if len(getattr(frame, name, None) or "") > MAX_ID_CHARS:
            raise WireError(f"{name} of more than {MAX_ID_CHARS} characters")


def _as(raw: Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except _BAD as error:
        raise WireError(f"not a {kind.__name__}: {error}") from None


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(surrogates.whole(data), type=Raw)
    except _BAD:
        return False
    return True


_NUMBER = re.compile(rb"-?\d{1,20}(\.\d{1,40})?([eE][+-]?\d{1,3})?")


def number_text(raw: Raw, otherwise: str = "0") -> str:
    """A JSON number as the agent wrote it; ``otherwise`` for anything that is none, or below zero."""
    text = bytes(raw).strip()
    return text.decode() if _NUMBER.fullmatch(text) and not text.startswith(b"-") else otherwise
