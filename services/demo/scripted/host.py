"""The host at the other end of stdin and stdout: what is said to it, asked of it, and answered by it."""

from __future__ import annotations

import os

from .wire import compact, new_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .record import Record
    from .wire import Frame, Steps

CLOSED = "Error: Tool permission stream closed before response received"


class Host:
    """`open` holds our requests that are not answered yet, `answers` the answers that nobody has taken yet,
    both by request id. `eof`: the host will say nothing more.
    """

    def __init__(self, session_id: str, record: Record) -> None:
        self.session_id = session_id
        self.record = record
        self.open: dict[str, Frame] = {}
        self.answers: dict[str, Frame] = {}
        self.eof = False

    def out(self, frame: Frame) -> None:
        data = compact(frame) + b"\n"
        while data:
            data = data[os.write(1, data) :]

    def say(self, frame: Frame) -> None:
        self.out({**frame, "session_id": self.session_id, "uuid": new_id()})

    def lifecycle(self, uuid: str, state: str) -> None:
        """Where the prompt is: `queued`, `started`, `completed`."""
        self.say({"type": "command_lifecycle", "command_uuid": uuid, "state": state})

    def respond(self, request_id: str, body: Frame) -> None:
        self.out({"type": "control_response", "response": {"request_id": request_id, **body}})

    def ask(self, request: Frame, timeout_s: float | None = None) -> Steps:
        """Send a control request and wait for its answer; `{"subtype": "timeout"}` when none came in time."""
        request_id = new_id()
        if self.eof:
            return {"subtype": "error", "error": CLOSED}
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
            self._cancel(request_id)
            return {"subtype": "timeout"}
        return answer

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

    def withdraw(self) -> None:
        """The turn is interrupted: no answer is wanted any more."""
        for request_id in list(self.open):
            del self.open[request_id]
            self.record("cancelled", request_id=request_id)
            self._cancel(request_id)

    def withdraw_hooks(self) -> None:
        """The host has new hooks: those that it was called by before count as cancelled."""
        for request_id in [key for key, asked in self.open.items() if asked["subtype"] == "hook_callback"]:
            del self.open[request_id]
            self._cancel(request_id)
            self.answers[request_id] = {"subtype": "cancelled"}

    def end(self) -> None:
        """Nobody will answer any more: every open question has failed."""
        self.eof = True
        for request_id in list(self.open):
            del self.open[request_id]
            self.record("cancelled", request_id=request_id)
            self.answers[request_id] = {"subtype": "error", "error": CLOSED}

    def open_permissions(self) -> list[Frame]:
        """The permission requests that wait for an answer, as they were sent."""
        return [
            {"type": "control_request", "request_id": key, "request": asked}
            for key, asked in self.open.items()
            if asked["subtype"] == "can_use_tool"
        ]

    def _cancel(self, request_id: str) -> None:
        self.out({"type": "control_cancel_request", "request_id": request_id})
