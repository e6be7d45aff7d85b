"""What the parts of the agent share: the session, and what its turn has come to so far."""

from __future__ import annotations

import time

from .bill import Bill
from .conversation import Conversation
from .host import Host
from .record import Record
from .wire import new_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Frame

MODEL = "scripted"
TOOLS = ("AskUserQuestion", "Bash", "Edit", "ExitPlanMode", "Glob", "Grep", "Read", "WebFetch", "Write")
MODES = ("acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan")
FIXED_TOKENS = 9000  # stands for the system prompt and the tools in the usage


class Interrupted(Exception):  # noqa: N818 - not an error: the turn was told to stop
    """Thrown into the turn to end it."""


class Turn:
    """What one turn has used and done so far. `uuids` are those of its prompts."""

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


class Session:
    """`queue` holds the prompts (text, uuid) that wait for a turn, `hooks` the host's matchers by event,
    `rules` what may run without asking (tool, its content or `None` for any). `turn` is the present turn, or
    the last one.
    """

    def __init__(self, options: dict[str, str]) -> None:
        self.id = options.get("--resume") or options.get("--session-id") or new_id()
        self.model = options.get("--model") or MODEL
        mode = options.get("--permission-mode") or "default"
        self.mode = "default" if mode == "manual" else mode
        self.may_bypass = self.mode == "bypassPermissions" or "--dangerously-skip-permissions" in options
        self.partial_messages = "--include-partial-messages" in options
        self.host_decides = options.get("--permission-prompt-tool") == "stdio"
        self.record = Record(self.id)
        self.host = Host(self.id, self.record)
        self.bill = Bill()
        self.conversation = Conversation(self.id, self.bill)
        self.queue: list[tuple[str, str | None]] = []
        self.hooks: dict[str, list[Frame]] = {}
        self.rules: list[tuple[str, str | None]] = []
        self.turn = Turn([])
        self.result_index = 0
        self.limited = False

    def say_mode(self) -> None:
        self.host.say(
            {"type": "system", "subtype": "status", "status": None, "permissionMode": self.mode},
        )

    def enter_mode(self, mode: str) -> None:
        """Change the permission mode, and say so."""
        self.mode = mode
        self.say_mode()
