"""Verbs about sessions: new, ls, send, interrupt, hibernate, wake, end, attach, history."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec
import trio

from bus import messages as m
from bus import topics as t
from bus.errors import BusDownError, RefusedError
from services.cli import view
from services.cli.line import Line, Snapshots, UsageError, World, connected
from services.cli.out import say, say_json
from services.cli.text import one_line

OPEN_S = 60.0  # a cold `claude --version` takes seconds, and ingest must have kept the session
END_S = 90.0  # asking, SIGINT, SIGTERM, and the last frames
HISTORY_PAGE = 1000


async def new(world: World, args: Namespace) -> int:
    command = m.CreateSession(
        session=args.name,
        cwd=os.path.abspath(Path(args.cwd).expanduser()),  # noqa: PTH100, ASYNC240  # links stay as they are
        kind=args.kind,
        prompt=args.prompt,
        model=args.model,
        permission_mode=args.permission_mode,
        budget_usd=args.budget,
        auto_approve=args.auto_approve,
        resume=args.resume,
        title=args.title,
        pinned=args.pin,
        trust=args.trust,
    )
    async with connected(world) as line:
        state = await line.ask(t.SESSION_CREATE, command, OPEN_S)
    if world.json:
        say_json(state)
    else:
        name = one_line(args.name)
        say(
            f"Session {name} is open. Follow it with `pointsman watch {name}`, "
            f"see its window with `pointsman attach {name}`."
        )
    return 0


async def ls(world: World, _args: Namespace) -> int:
    async with connected(world) as line:
        wanted = [t.SESSIONS_INDEX, t.SESSION_STATE, *([] if world.json else [t.LEDGER_SESSION])]
        found = await line.read(*wanted, complete=_all_sessions)
    if world.json:
        say_json(sorted(found.raw(t.SESSION_STATE), key=lambda state: str(state.get("session"))))
        return 0
    states = found.all(t.SESSION_STATE, m.SessionState)
    if not states:
        say("No session. Open one with `pointsman new NAME`.")
        return 0
    costs = {row.uid: row.spent_usd for row in found.all(t.LEDGER_SESSION, m.LedgerSession)}
    say(view.sessions(states, costs, world.now()))
    return 0


def _all_sessions(found: Snapshots) -> bool | None:
    """Whether the states of all sessions in the index are there; costs are worth no waiting."""
    index = found.one(t.SESSIONS_INDEX, m.SessionIndex)
    if index is None:
        return None
    there = {state.get("uid") for state in found.raw(t.SESSION_STATE)}
    return False if {entry.uid for entry in index.sessions} - there else None


async def send(world: World, args: Namespace) -> int:
    text = sys.stdin.read() if args.text == ["-"] else " ".join(args.text)
    if not text.strip():
        raise UsageError("there is nothing to send: give the text, or - to read it from the standard input")
    result = await _ask_session(world, args.name, t.SESSION_PROMPT, m.Prompt(text=text))
    if world.json:
        say_json(result)
    elif isinstance(result, dict) and result.get("queued_prompts"):
        say(f"Queued; {result['queued_prompts']} waiting.")
    else:
        say("Sent.")
    return 0


async def interrupt(world: World, args: Namespace) -> int:
    result = await _ask_session(world, args.name, t.SESSION_INTERRUPT, m.SessionCommand(reason=args.reason))
    say_json(result) if world.json else say("Interrupted.")
    return 0


async def hibernate(world: World, args: Namespace) -> int:
    command = m.SessionCommand(reason=args.reason)
    result = await _ask_session(world, args.name, t.SESSION_HIBERNATE, command)
    name = one_line(args.name)
    say_json(result) if world.json else say(f"Session {name} goes to sleep; the next prompt wakes it.")
    return 0


async def wake(world: World, args: Namespace) -> int:
    result = await _ask_session(world, args.name, t.SESSION_WAKE, m.SessionCommand(reason=args.reason))
    say_json(result) if world.json else say(f"Session {one_line(args.name)} wakes with its conversation.")
    return 0


async def end(world: World, args: Namespace) -> int:
    if bool(args.name) is args.all:
        raise UsageError("name a session, or give --all (and not both)")
    command = m.SessionCommand(reason=args.reason)
    if not args.all:
        result = await _ask_session(world, args.name, t.SESSION_END, command, END_S)
        say_json(result) if world.json else say(f"Session {one_line(args.name)} has ended.")
        return 0
    ended: list[str] = []
    failed: dict[str, dict[str, str]] = {}
    async with connected(world) as line:
        entries = [entry for entry in await line.sessions() if entry.kind != "external"]  # those are not ours
        names = [entry.session for entry in entries if entry.status not in view.GONE]

        async def end_one(name: str) -> None:
            try:
                await line.ask(t.SESSION_END, command, END_S, session=name)
                ended.append(name)
            except RefusedError as error:
                if error.code == "unknown_session":
                    ended.append(name)  # it went by itself
                else:
                    failed[name] = {"code": error.code, "message": error.message}

        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(end_one, name)
    if world.json:
        say_json({"ended": sorted(ended), "failed": failed})
    else:
        say(f"Ended: {', '.join(sorted(ended)) or 'there was no session'}.")
        for name, error in failed.items():
            say(f"{one_line(name)} could not be ended: {one_line(error['message'])}")
    return 1 if failed else 0


async def history(world: World, args: Namespace) -> int:
    after, events, last = args.after, [], 0
    left = args.limit
    async with connected(world) as line:
        while left is None or left > 0:
            size = HISTORY_PAGE if left is None else min(left, HISTORY_PAGE)
            command = m.History(after_seq=after, limit=size)
            page = await _asked(line, args.name, t.SESSION_HISTORY, command)
            result = msgspec.convert(page, m.HistoryResult)
            events += result.events
            last = result.last_seq
            if len(result.events) == 0 or after >= last:
                break
            after = max(int(event.get("seq", 0)) for event in result.events)
            left = None if left is None else left - len(result.events)
            if after >= last:
                break
    if world.json:
        say_json({"events": events, "last_seq": last})
        return 0
    for document in events:
        shown = view.event(document, name=False)
        if shown is not None:
            say(shown)
    return 0


async def attach(world: World, args: Namespace) -> int:
    """Replace this process by tmux's. Works without the bus as well: the window is this machine's."""
    socket = world.home.tmux_socket
    server = ["tmux", *(["-L", "pointsman"] if socket is None else ["-S", str(socket)])]
    if shutil.which("tmux") is None:
        raise RefusedError("unavailable", "tmux is not installed: see `pointsman doctor`")
    target = _window(server, args.name)
    if target is None:
        async with connected(world) as line:
            await _known(line, args.name)
        raise RefusedError(
            "unavailable", f"session {one_line(args.name)} has no window now: it may be coming back"
        )
    argv = [*server, "attach-session", "-t", target]
    if world.json:
        say_json({"argv": argv})
        return 0
    if not sys.stdin.isatty():
        raise UsageError("attach needs a terminal")
    environment = {name: value for name, value in world.environ.items() if name != "TMUX"}  # inside tmux, too
    sys.stdout.flush()
    return os.execvpe(argv[0], argv, environment)  # noqa: S606  # no shell is the point


def _window(server: list[str], name: str) -> str | None:
    """The tmux session that a session of ours runs in: one with our mark and, normally, the same name."""
    command = [*server, "list-panes", "-a", "-F", "#{session_name}|#{@pointsman_uid}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line.split("|")[0] for line in listed.stdout.splitlines() if not line.endswith("|")]
    ours = [window for window in found if window == name] or [
        window
        for window in found
        if window.rpartition("-")[0] == name and len(window.rpartition("-")[2]) == 6
    ]
    return f"={ours[0]}" if ours else None


# ── asking about one session ─────────────────────────────────────────────────────────────────────────────


async def _ask_session(
    world: World, name: str, row: t.Topic, command: m.Command, timeout_s: float = 15.0
) -> Any:
    async with connected(world) as line:
        return await _asked(line, name, row, command, timeout_s)


async def _asked(line: Line, name: str, row: t.Topic, command: m.Command, timeout_s: float = 15.0) -> Any:
    """Ask, and when the session is not known, say which ones are meant perhaps."""
    if not t.PARAMETERS["session"].match(name):
        await _known(line, name)
    try:
        return await line.ask(row, command, timeout_s, session=name)
    except RefusedError as error:
        if error.code == "unknown_session":
            await _known(line, name, error)
        raise


async def _known(line: Line, name: str, error: RefusedError | None = None) -> None:
    """Raises `RefusedError` (``unknown_session``) with the nearest names, unless the session lives."""
    try:
        entries = await line.sessions()
    except BusDownError:
        entries = []
    known = [entry.session for entry in entries if entry.status not in view.GONE]
    if name in known and error is None:
        return
    if name not in known and any(entry.session == name for entry in entries):
        raise RefusedError("unknown_session", f"session {name} has ended; see `pointsman history {name}`")
    if any(entry.session == name and entry.kind == "external" for entry in entries):
        text = f"{name} is external: it is followed, not controlled; do it on its own screen"
        raise RefusedError("unavailable", text)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or [k for k in known if k.startswith(name)]
    hint = f"; did you mean {' or '.join(near)}?" if near else "; see `pointsman ls`"
    text = error.message if error else f"no session {one_line(name)!r}"
    raise RefusedError("unknown_session", f"{text}{hint}", error.details if error else None)
