"""Verbs about the policy: check, explain, replay, reload, rules, forget. The gate itself answers."""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.text import Text

from bus import messages as m
from bus import topics as t
from services.cli import view
from services.cli.line import Line, UsageError, World, connected
from services.cli.out import say, say_json
from services.cli.text import named, one_line

_SPAN = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
ANSWER_STYLE = {"allow": "green", "ask": "yellow", "deny": "bold red"}


async def check(world: World, args: Namespace) -> int:
    text = _read(args.file)
    async with connected(world) as line:
        found = await line.ask(t.POLICY, m.PolicyCommand(toml=text), verb="check")
    if world.json:
        say_json(found)
    else:
        _checked(found, one_line(args.file, 200))
    return 0 if found["ok"] else 1


def _checked(found: dict[str, Any], where: str) -> None:
    for mistake in found["mistakes"]:
        say(Text(one_line(mistake, 1000), style="red"))
    for warning in found["warnings"]:
        say(Text(f"warning: {one_line(warning, 1000)}", style="yellow"))
    if found["ok"]:
        say(f"{where} is good: {_rules(found['rules'])}.")
    else:
        say(f"{where} would be rejected; the rules in force would stay.")


def _rules(count: int) -> str:
    return "no rules" if count == 0 else "1 rule" if count == 1 else f"{count} rules"


async def explain(world: World, args: Namespace) -> int:
    try:
        given = json.loads(args.input)
    except ValueError as error:
        raise UsageError(f"the input is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise UsageError('the input must be a JSON object, such as {"command": "ls"}')
    cwd, uid, note = _real(args.cwd or "."), None, None
    async with connected(world) as line:
        if args.session is not None:
            state = await _session(line, args.session)
            if state is None:
                note = f"there is no session {one_line(args.session)}: judged as if it were one, in {cwd}"
            else:
                cwd, uid = cwd if args.cwd else state.cwd, state.uid
        command = m.PolicyCommand(tool=args.tool, input=given, session=args.session, cwd=cwd, uid=uid)
        found = await line.ask(t.POLICY, command, verb="explain")
    if world.json:
        say_json({**found, "note": note})
        return 0
    if note is not None:
        say(Text(note, style="yellow"))
    answer = str(found["decision"])
    say(
        Text(one_line(answer), style=ANSWER_STYLE.get(answer, "")).append(
            f"  {one_line(found['reason'], 500)}"
        )
    )
    rows = [
        ("rule", found.get("rule") or "none matches"),
        ("danger", f"{found['level']}: {found['danger']['reason']}"),
        ("impact", found["impact"]),
        ("holds", "in every permission mode" if found["every_mode"] else "where the agent asks"),
    ]
    if answer == "ask":
        waits = found.get("timeout_s")
        rows.append(("approvers", str(found["required"])))
        rows.append(("waits", f"{waits:g} s" if waits else "until it is decided"))
    if found["commands"]:
        shown = ["…" if word is None else word for words in found["commands"] for word in [*words, ";"]]
        rows.append(
            ("commands", " ".join(shown[:-1]) + ("" if found["complete"] else "  (and what cannot be read)"))
        )
    if found["paths"]:
        rows.append(("paths", ", ".join(found["paths"])))
    rows.append(("directory", cwd))
    for name, text in rows:
        say(f"{name:10} {one_line(str(text), 500)}")
    for looked in found["rules"]:
        say(Text(f"  {looked['match']:6} {one_line(looked['rule'])} ({looked['decision']})", style="dim"))
    return 0


async def _session(line: Line, name: str) -> m.SessionState | None:
    found = await line.read((t.SESSION_STATE, {"session": name}))
    return found.one(t.SESSION_STATE, m.SessionState)


async def replay(world: World, args: Namespace) -> int:
    text = _read(args.file) if args.file is not None else None
    since = None if args.since is None else _since(args.since, world.now())
    async with connected(world) as line:
        command = m.PolicyCommand(toml=text, since=since)
        found = await line.ask_patiently(t.POLICY, command, verb="replay")
    if world.json:
        say_json(found)
        return 0
    if found["differences"]:
        made = view.table("WHEN", "SESSION", "WAS", "WOULD BE", "RULE", "WHAT", wide="WHAT")
        for entry in found["differences"]:
            at = datetime.fromisoformat(entry["at"])
            made.add_row(
                at.astimezone().strftime("%m-%d %H:%M"),
                Text(one_line(entry["session"])),
                _answer(entry["was"], entry["decided"]),
                _answer(entry["would"]),
                Text(one_line(entry["would_rule"] or "")),
                Text(named(entry["tool"], entry["summary"], 200)),
            )
        say(made)
    changes = ", ".join(f"{count} {one_line(change)}" for change, count in found["changes"].items()) or "none"
    calls = f"{found['calls']} calls that agents ran by themselves"
    say(f"\n{found['looked_at']} decisions and {calls} looked at; different: {changes}.")
    return 0


def _answer(answer: str, decided: str = "") -> Text:
    more = f" ({one_line(decided)})" if decided and answer == "ask" else ""
    return Text(one_line(answer) + more, style=ANSWER_STYLE.get(answer, ""))


async def reload(world: World, _args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.ask(t.POLICY, m.PolicyCommand(), verb="reload")
    if world.json:
        say_json(found)
    else:
        _checked(found, "the policy in force now")
    return 0


async def rules(world: World, _args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.ask(t.POLICY, m.PolicyCommand(), verb="rules")
    if world.json:
        say_json(found)
        return 0
    for rule in found["rules"]:
        answer = str(rule["decision"])
        shown = Text(f"{one_line(answer):6}", style=ANSWER_STYLE.get(answer, ""))
        told = [f"{key} {_value(value)}" for key, value in rule.items() if key not in ("name", "decision")]
        say(shown.append(f"{one_line(rule['name'])}: {'; '.join(told)}"))
    for entry in found["remembered"]:
        answer = str(entry["decision"])
        shown = Text(f"{one_line(answer):6}", style=ANSWER_STYLE.get(answer, ""))
        where = "this session" if entry["uid"] else "always"
        text = f"{one_line(entry['id'])}: {one_line(entry['summary'], 200)} in {one_line(entry['directory'])}"
        say(shown.append(f"{text} ({where}; remembered by {one_line(entry['by'])})"))
    listed = ", ".join(map(one_line, found["auto_approve"])) or "nothing"
    say(f"then   approved by themselves at level low: {listed}; everything else is asked.")
    if found["remembered"]:
        say("\n`pointsman policy forget ID` takes back what was remembered.")
    return 0


def _value(value: Any) -> str:
    return ", ".join(one_line(str(item), 200) for item in (value if isinstance(value, list) else [value]))


async def forget(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.ask(t.POLICY, m.PolicyCommand(rule=args.rule), verb="forget")
    if world.json:
        say_json(found)
    else:
        say(f"Forgotten: {one_line(found['summary'], 200)}. It is asked about again.")
    return 0


def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _read(file: str) -> str:
    try:
        return Path(file).read_text("utf-8")
    except OSError as error:
        raise UsageError(f"{one_line(file)} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{one_line(file)} cannot be read: it is not text in UTF-8") from error


def _since(text: str, now: datetime) -> datetime:
    """A time, or how long ago: 90m, 24h, 7d, 2w."""
    found = _SPAN.fullmatch(text)
    if found:
        return now - timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text!r}: give a time (2026-11-21, 2026-11-21T12:00), or 24h, 7d"
        ) from None
    return at if at.tzinfo is not None else at.astimezone()
