"""A scripted Anthropic Messages API on loopback: the real Claude Code CLI runs against it, offline and for
nothing.

The last prompt of a conversation says what the model does (`services/demo/scripted/script.py`). The answer
follows from the request alone, so a resumed conversation goes on, and two servers give the same answers.

It keeps its own bill, as a witness that shares no code with what the CLI or Pointsman count. A bill is

    {"request_id", "message_id", "model", "usage", "cost_picodollars", "probe", "aborted", "at"}

with `usage` as the API reported it, the cost as an integer of 10^-12 dollars, `probe` true for the CLI's
own requests of one token that it leaves out of its total, `aborted` true when the client hung up in mid
answer (usage as sent until then) and `at` in Unix seconds. A bill is there before the last frame of its
answer is sent.

A client with a token in place of a key (`CLAUDE_CODE_OAUTH_TOKEN`) is a subscription: answers tell in their
headers how much of its windows is used, and `LIMIT seconds` uses up the one of five hours, once, until it is
reset after that time. Any other prompt may run into it as well.

In tests: `with MessagesApi() as api:` (a thread serves). By hand or for a fleet:
`python -m tests.support.messages_api --port 0 --bills FILE` prints `{"port": N, "url": "…"}` and appends
every bill to FILE.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from services.demo.scripted import script

Price = tuple[int, int, int, int, int]
"""(input, output, cache read, cache write 5 min, cache write 1 h) in 10^-12 dollars a token."""

MAX_BODY_BYTES = 64 * 1024 * 1024

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


class MessagesApi:
    """The server. As a context manager it listens on entering and is gone on leaving.

    `prices` says which models exist, without date suffix: any other gets the 404 that the real API gives.
    """

    def __init__(
        self, prices: Mapping[str, Price] = script.PRICES, *, port: int = 0, bills_file: Path | None = None
    ) -> None:
        self.prices = dict(prices)
        self.bills: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        """The bodies of all `POST /v1/messages`, in order of arrival."""
        self._bills_file = bills_file
        self._limited_until: float | None = None  # None: that has not happened yet
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.api = self
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What goes into `ANTHROPIC_BASE_URL`."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> MessagesApi:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="messages-api", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        if self._thread is not None:
            self._thread.join()

    def serve_forever(self) -> None:
        """Serve in this thread until `KeyboardInterrupt`."""
        self._server.serve_forever()

    def total_picodollars(self, *, probes: bool = False) -> int:
        """The sum of the bills in 10^-12 dollars; without the CLI's uncounted probes unless asked for."""
        with self._lock:
            return sum(bill["cost_picodollars"] for bill in self.bills if probes or not bill["probe"])

    def pause(self, seconds: float) -> None:
        """Wait as the script says, or until the server stops."""
        self._stopping.wait(seconds)

    def seen(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)

    def limited(self, seconds: float | None) -> bool:
        """Whether the subscription's window is used up; ``seconds``: it is from now on, if it never was."""
        with self._lock:
            if self._limited_until is None and seconds is not None:
                self._limited_until = time.time() + seconds
            return self._limited_until is not None and time.time() < self._limited_until

    def windows(self) -> dict[str, str]:
        """The headers that tell a subscription of its windows."""
        limited = self.limited(None)
        now = time.time()
        reset = {"5h": self._limited_until if limited else now + 3 * 3600, "7d": now + 4 * 86400}
        status = "rejected" if limited else "allowed"
        name = "anthropic-ratelimit-unified"
        return {
            f"{name}-status": status,
            f"{name}-reset": f"{reset['5h']:.0f}",
            f"{name}-representative-claim": "five_hour",
            f"{name}-5h-status": status,
            f"{name}-5h-utilization": "1.0" if limited else "0.25",
            f"{name}-5h-reset": f"{reset['5h']:.0f}",
            f"{name}-7d-status": "allowed",
            f"{name}-7d-utilization": "0.4",
            f"{name}-7d-reset": f"{reset['7d']:.0f}",
        }

    def book(self, bill: dict[str, Any]) -> None:
        with self._lock:
            self.bills.append(bill)
            if self._bills_file is not None:
                with self._bills_file.open("a") as file:
                    file.write(json.dumps(bill) + "\n")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection alive must not hold up the end of a test
    request_queue_size = 128
    api: MessagesApi

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it that
        pass

    def do_HEAD(self) -> None:
        self._json(200, {})

    def do_GET(self) -> None:
        if self.path.partition("?")[0] in ("/", "/health"):
            self._json(200, {"ok": True})
        else:
            self._fail(404, f"no such path: {self.path}")

    def do_POST(self) -> None:
        self.request_id = "req_" + uuid.uuid4().hex[:20]
        length = int(self.headers.get("Content-Length") or 0)
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            return self._fail(413, "too large")
        try:
            body = json.loads(self.rfile.read(length) or b"{}")
        except ValueError:
            return self._fail(400, "the body is not JSON")
        path = self.path.partition("?")[0]
        if path == "/v1/messages/count_tokens":
            return self._json(200, {"input_tokens": len(json.dumps(body)) // 4})
        if path != "/v1/messages":
            return self._fail(404, f"no such path: {self.path}")
        self.server.api.seen(body)
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            return self._fail(400, "messages: at least one message is required")
        price = self.server.api.prices.get(script.canonical_model(str(body.get("model"))))
        if price is None:
            return self._fail(404, f"model: {body.get('model')}")
        return self._answer(body, price)

    def _answer(self, body: dict[str, Any], price: Price) -> None:
        actions = _actions(body)
        for kind, value in actions:
            if kind == "error":
                return self._fail(value, f"scripted error {value}")
            if kind == "limit" and not self._subscribed:  # with a key, there is no more to it
                return self._fail(429, "scripted limit")
            if self._subscribed and self.server.api.limited(value if kind == "limit" else None):
                return self._fail(429, "This request would exceed your account's rate limit.")
            if kind == "wait" and any(later == "error" for later, _ in actions):
                self.server.api.pause(value / 1000)
        actions = [action for action in actions if action[0] != "limit"]
        fixed = len(json.dumps([body.get("system"), body.get("tools")])) // 4
        usage = script.usage_of(body["messages"], fixed, script.output_tokens_of(actions))
        probe = body.get("max_tokens") == 1
        if probe:
            usage["output_tokens"] = 1
        answer = _Answer(str(body["model"]), actions, usage, probe=probe)
        bill = {
            "request_id": self.request_id,
            "message_id": answer.id,
            "model": answer.model,
            "usage": usage,
            "cost_picodollars": script.cost(usage, price),
            "probe": probe,
            "aborted": False,
            "at": time.time(),
        }
        if not body.get("stream"):
            self.server.api.book(bill)
            return self._json(200, answer.whole())
        sent = 1
        self._start(200, "text/event-stream")
        try:
            for pause_s, event in answer.events():
                if pause_s:
                    self._chunk(b"")  # notice a client that has hung up
                    self.server.api.pause(pause_s)
                if event["type"] == "content_block_delta":
                    sent += 1
                elif event["type"] == "message_delta":
                    self.server.api.book(bill)
                self._chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
            self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            self.close_connection = True
            if bill not in self.server.api.bills:
                usage = {**usage, "output_tokens": min(sent, usage["output_tokens"])}
                self.server.api.book(
                    {**bill, "usage": usage, "cost_picodollars": script.cost(usage, price), "aborted": True}
                )
        return None

    @property
    def _subscribed(self) -> bool:
        return (self.headers.get("Authorization") or "").startswith("Bearer ")

    def _chunk(self, data: bytes) -> None:
        data = data or b": waiting\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _start(self, status: int, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("request-id", getattr(self, "request_id", "req_none"))
        for name, value in self.server.api.windows().items() if self._subscribed else ():
            self.send_header(name, value)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _json(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self._start(status, "application/json", len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        kind = ERROR_TYPES.get(status, "api_error")
        self._json(
            status,
            {
                "type": "error",
                "error": {"type": kind, "message": message},
                "request_id": getattr(self, "request_id", None),
            },
        )


def _actions(body: dict[str, Any]) -> list[script.Action]:
    """What the model does. Side requests of the CLI (probes, titles, topics) get a short harmless answer."""
    if body.get("max_tokens") == 1:
        return [("text", "Hi")]
    if not body.get("tools"):
        system = json.dumps(body.get("system") or "")
        if "title" in system or "topic" in system or "output_config" in body:
            return [("text", json.dumps({"title": "Scripted session", "isNewTopic": False}))]
    return script.reply(body["messages"])


class _Answer:
    """One answer of the model, as a whole and as the events of the stream."""

    def __init__(
        self, model: str, actions: list[script.Action], usage: dict[str, Any], *, probe: bool
    ) -> None:
        self.id = "msg_" + uuid.uuid4().hex[:22]
        self.model = model
        self.usage = usage
        self._actions = actions
        tools = any(kind == "tool" for kind, _ in actions)
        self.stop_reason = "max_tokens" if probe else "tool_use" if tools else "end_turn"

    def whole(self) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for kind, value in self._actions:
            if kind == "text":
                content.append({"type": "text", "text": value})
            elif kind == "stream":
                content.append({"type": "text", "text": "".join(stream_words(value[0]))})
            elif kind == "thinking":
                content.append({"type": "thinking", "thinking": value, "signature": "c2NyaXB0ZWQ="})
            elif kind == "tool":
                content.append({"type": "tool_use", "id": _tool_id(), "name": value[0], "input": value[1]})
        return {**self._message(), "content": content, "stop_reason": self.stop_reason, "usage": self.usage}

    def _message(self) -> dict[str, Any]:
        usage = {**self.usage, "output_tokens": 1}
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def events(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """The events in order, each with the pause before it in seconds."""
        yield 0, {"type": "message_start", "message": self._message()}
        index = -1
        pause_s = 0.0
        for kind, value in self._actions:
            if kind == "wait":
                pause_s += value / 1000
                continue
            index += 1
            start, deltas, between_s = _block(kind, value)
            yield pause_s, {"type": "content_block_start", "index": index, "content_block": start}
            for delta in deltas:
                yield between_s, {"type": "content_block_delta", "index": index, "delta": delta}
            yield 0, {"type": "content_block_stop", "index": index}
            pause_s = 0.0
        delta = {"stop_reason": self.stop_reason, "stop_sequence": None}
        yield (
            pause_s,
            {
                "type": "message_delta",
                "delta": delta,
                "usage": {"output_tokens": self.usage["output_tokens"]},
            },
        )
        yield 0, {"type": "message_stop"}


def stream_words(count: int) -> list[str]:
    """The deltas of `STREAM count ms`."""
    return [f"w{number} " for number in range(count)]


def _block(kind: str, value: Any) -> tuple[dict[str, Any], list[dict[str, Any]], float]:
    """The block's start, its deltas, and the seconds before each of them."""
    if kind == "tool":
        start = {"type": "tool_use", "id": _tool_id(), "name": value[0], "input": {}}
        return start, [{"type": "input_json_delta", "partial_json": json.dumps(value[1])}], 0
    if kind == "thinking":
        deltas = [
            {"type": "thinking_delta", "thinking": value},
            {"type": "signature_delta", "signature": "c2NyaXB0ZWQ="},
        ]
        return {"type": "thinking", "thinking": "", "signature": ""}, deltas, 0
    if kind == "stream":
        return (
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": w} for w in stream_words(value[0])],
            value[1] / 1000,
        )
    half = len(value) // 2
    parts = [part for part in (value[:half], value[half:]) if part]
    return {"type": "text", "text": ""}, [{"type": "text_delta", "text": part} for part in parts], 0


def _tool_id() -> str:
    return "toolu_" + uuid.uuid4().hex[:22]


def main(arguments: list[str] | None = None) -> int:
    """Serve until interrupted. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.messages_api", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--bills", type=Path, help="append each bill to this file as one JSON line")
    options = parser.parse_args(arguments)
    api = MessagesApi(port=cast(int, options.port), bills_file=cast("Path | None", options.bills))
    print(json.dumps({"port": api.port, "url": api.url}), flush=True)
    try:
        api.serve_forever()
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
