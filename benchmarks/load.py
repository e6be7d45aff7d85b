"""Agents under load: opens the sockets of ``--sessions`` (a JSON list of [name, token]) and sends deltas.

``flood``: ``--frames`` in all, as fast as the server takes them, ``--lines`` in a WebSocket message.
``pace``: ``--rate`` a second in all for ``--seconds``. ``idle``: just holds the sockets.
``ask``: ``--frames`` calls in turn on the first session, beside ``--rate`` deltas a second on the others;
prints the percentiles of the time from question to answer. As a real agent it lets its PreToolUse hook see
each call first, and no two of its commands are the same. Answers the server's control requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from benchmarks.subscriber import percentile
from benchmarks.wire import AgentSocket, delta_line, encode_text

THINK_S = 0.02  # between two calls; a real agent calls its model in between, which takes seconds
# From the hook's answer to the question: 2.1.329 takes 15 to 80 ms, 2.1.119 takes 2 to 17 (recorded frames).
HOOKED_S = 0.015
HOOK = "pointsman-PreToolUse"  # as our `initialize` registers it


async def polite(socket: AgentSocket, answers: dict[str, trio.Event], greeted: trio.Event) -> None:
    """Answer control requests (the first is `initialize`); note answers to our own questions."""
    while True:
        lines = await socket.receive_lines()
        if not lines:
            return
        for line in lines:
            frame = msgspec.json.decode(line)
            if frame.get("type") == "control_request":
                response = {
                    "subtype": "success",
                    "request_id": frame["request_id"],
                    "response": {"commands": [], "pending_permission_requests": []},
                }
                await socket.send_raw(
                    encode_text(
                        msgspec.json.encode({"type": "control_response", "response": response}) + b"\n"
                    )
                )
                greeted.set()
            elif frame.get("type") == "control_response":
                event = answers.get(frame["response"]["request_id"])
                if event is not None:
                    event.set()


def control_request(request_id: str, request: dict[str, Any]) -> bytes:
    return (
        msgspec.json.encode({"type": "control_request", "request_id": request_id, "request": request}) + b"\n"
    )


def tool_input(call: str) -> dict[str, str]:
    return {"command": f"make test RUN={call}", "description": "Run the tests"}


def hook(request_id: str, call: str) -> bytes:
    """The agent is about to make a call."""
    body = {
        "hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": tool_input(call),
        "tool_use_id": f"toolu_{call}", "session_id": "", "cwd": "/tmp", "permission_mode": "default",  # noqa: S108  # a name only
    }  # fmt: skip
    asked = {"subtype": "hook_callback", "callback_id": HOOK, "input": body, "tool_use_id": f"toolu_{call}"}
    return control_request(request_id, asked)


def question(request_id: str, call: str) -> bytes:
    asked = {
        "subtype": "can_use_tool", "tool_name": "Bash", "input": tool_input(call),
        "permission_suggestions": [], "tool_use_id": f"toolu_{call}",
    }  # fmt: skip
    return control_request(request_id, asked)


def tool_result(call: str) -> bytes:
    """What an agent says once the tool that it asked for has run."""
    block = {
        "type": "tool_result",
        "tool_use_id": f"toolu_{call}",
        "content": "ok",
        "is_error": False,
    }
    frame = {
        "type": "user", "message": {"role": "user", "content": [block]}, "parent_tool_use_id": None,
        "session_id": "", "uuid": str(uuid.uuid4()),
    }  # fmt: skip
    return msgspec.json.encode(frame) + b"\n"


async def run(args: argparse.Namespace, sessions: list[tuple[str, str]]) -> None:
    answers: dict[str, trio.Event] = {}
    async with trio.open_nursery() as nursery:
        sockets, greetings = [], []
        for name, token in sessions:
            socket = await AgentSocket.connect("127.0.0.1", args.port, name, token)
            greetings.append(trio.Event())
            nursery.start_soon(polite, socket, answers, greetings[-1])
            sockets.append(socket)
        if args.greeted:
            for greeting in greetings:
                await greeting.wait()
        print(json.dumps({"ready": len(sockets)}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)  # the go
        out: dict[str, float] = {}
        if args.mode == "flood":
            out = await flood(sockets, args)
        elif args.mode == "pace":
            out = await pace(sockets, args)
        elif args.mode == "ask":
            out = await ask(sockets, answers, args)
        print(json.dumps(out), flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)  # hold the sockets until told
        nursery.cancel_scope.cancel()


async def flood(sockets: list[AgentSocket], args: argparse.Namespace) -> dict[str, float]:
    each = args.frames // len(sockets)
    batch = min(each, 200)
    lines = [delta_line(0) for _ in range(batch)]
    messages = [encode_text(b"".join(lines[i : i + args.lines])) for i in range(0, batch, args.lines)]
    blob = b"".join(messages)
    sent = 0

    async def one(socket: AgentSocket) -> None:
        nonlocal sent
        for _ in range(each // batch):
            await socket.send_raw(blob)
            sent += batch

    async with trio.open_nursery() as nursery:
        for socket in sockets:
            nursery.start_soon(one, socket)
    return {"sent": sent}


async def pace(sockets: list[AgentSocket], args: argparse.Namespace) -> dict[str, float]:
    gap, sent, start = 1 / args.rate, 0, trio.current_time()
    while (elapsed := trio.current_time() - start) < args.seconds:
        if sent >= elapsed * args.rate:
            await trio.sleep(gap)
            continue
        socket = sockets[sent % len(sockets)]
        await socket.send_raw(encode_text(delta_line(time.monotonic_ns())))
        sent += 1
    return {"sent": sent}


async def ask(
    sockets: list[AgentSocket], answers: dict[str, trio.Event], args: argparse.Namespace
) -> dict[str, float]:
    trips: list[float] = []
    async with trio.open_nursery() as nursery:
        if args.rate:
            args.seconds = 3600.0
            nursery.start_soon(pace, sockets[1:], args)

        async def round_trip(line: Callable[[str, str], bytes], call: str) -> float:
            request_id = str(uuid.uuid4())
            answers[request_id] = trio.Event()
            start = time.perf_counter()
            await sockets[0].send_raw(encode_text(line(request_id, call)))
            with trio.fail_after(10):
                await answers[request_id].wait()
            return (time.perf_counter() - start) * 1000

        for number in range(args.frames + 10):
            call = uuid.uuid4().hex
            await round_trip(hook, call)
            await trio.sleep(HOOKED_S)
            took_ms = await round_trip(question, call)
            if number >= 10:  # the first ones warm up
                trips.append(took_ms)
            await sockets[0].send_raw(encode_text(tool_result(call)))
            await trio.sleep(THINK_S)
        nursery.cancel_scope.cancel()
    trips.sort()
    return {"p50_ms": statistics.median(trips), "p99_ms": percentile(trips, 0.99), "trips": len(trips)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["flood", "pace", "idle", "ask"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sessions", required=True)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--greeted", action="store_true", help="the server speaks first: wait for it")
    parser.add_argument("--frames", type=int, default=0)
    parser.add_argument("--lines", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=5.0)
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        trio.run(run, args, json.loads(Path(args.sessions).read_text())[: args.count])


if __name__ == "__main__":
    main()
