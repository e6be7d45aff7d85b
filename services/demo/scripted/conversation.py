"""The conversation and its transcript, the file from which `--resume` takes it up again."""

from __future__ import annotations

import json
import os
import re
import time

from . import script
from .wire import VERSION, append_line, new_id, now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .bill import Bill
    from .wire import Frame


class Conversation:
    """`messages` is what the model sees, `seen` are the uuids of the prompts that it has or will have."""

    def __init__(self, session_id: str, bill: Bill) -> None:
        self.session_id = session_id
        self.bill = bill
        self.cwd = os.getcwd()
        self.messages: list[Frame] = []
        self.seen: set[str] = set()
        self.last_uuid: str | None = None
        self.started = time.monotonic()
        base = os.environ.get("CLAUDE_CONFIG_DIR") or os.path.join(os.path.expanduser("~"), ".claude")
        self.projects = os.path.join(base, "projects")
        self.transcript = os.path.join(
            self.projects, re.sub(r"[^A-Za-z0-9]", "-", self.cwd), session_id + ".jsonl"
        )

    def keep(self, line: Frame, uuid: str | None = None) -> None:
        """Write a line of the conversation."""
        uuid = uuid or new_id()
        append_line(
            self.transcript,
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
            },
        )
        self.last_uuid = uuid

    def keep_queued(self, operation: str, **more: str) -> None:
        """Write that a prompt came into the queue (`enqueue`), or left it (`dequeue`)."""
        append_line(
            self.transcript,
            {
                "type": "queue-operation",
                "operation": operation,
                "timestamp": now(),
                "sessionId": self.session_id,
                **more,
            },
        )

    def keep_bill(self) -> None:
        """Write what all has cost, if there is a transcript: the end of a process that is not killed."""
        if os.path.exists(self.transcript):
            append_line(
                self.transcript,
                {
                    "type": "cost-state",
                    "sessionId": self.session_id,
                    "totalCostUSD": self.bill.total() / 1e12,
                    "totalDuration": int((time.monotonic() - self.started) * 1000),
                    "modelUsage": self.bill.model_usage(),
                    "hasUnknownModelCost": False,
                },
            )

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
                    self.messages.append(mid_turn(line["attachment"]["prompt"]))
                    pending.append(str(line["attachment"].get("source_uuid")))
                elif kind == "cost-state":
                    self.bill.restore(line["modelUsage"])
                self.last_uuid = line.get("uuid") or self.last_uuid
        return True


def mid_turn(prompt: str) -> Frame:
    """A prompt that arrived while the tools ran, as the model sees it."""
    return {"role": "system", "content": script.MID_TURN + prompt}
