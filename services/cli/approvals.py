"""Verbs about approvals: approvals, approve, deny, answer.

The user's token stands retained where only that user may read it; it proves who decided.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from typing import Any

from rich.text import Text

from bus import messages as m
from bus import topics as t
from bus.errors import RefusedError
from services.cli import view
from services.cli.line import USER, Line, Snapshots, UsageError, World, connected
from services.cli.out import say, say_json
from services.cli.text import clean, named, one_line


async def approvals(world: World, _args: Namespace) -> int:
    async with connected(world) as line:
        found = await line.read(t.APPROVALS_PENDING, t.APPROVAL_REQUEST, complete=_all_requests)
    order = _order(found)
    if world.json:
        documents = found.raw(t.APPROVAL_REQUEST)
        say_json(sorted(documents, key=lambda document: order.get(str(document.get("id")), len(order))))
        return 0
    requests = found.all(t.APPROVAL_REQUEST, m.ApprovalRequest)
    if not requests:
        say("Nothing waits for a decision.")
        return 0
    requests.sort(key=lambda request: order.get(request.id, len(order)))
    say(view.approvals(requests, world.now()))
    say("\n`pointsman approve ID` says yes, `deny ID` no; `answer ID` is for questions.")
    return 0


def _order(found: Snapshots) -> dict[str, int]:
    """Oldest first, as the owner lists them."""
    pending = found.one(t.APPROVALS_PENDING, m.PendingApprovals)
    return {item.id: number for number, item in enumerate(pending.items if pending else [])}


def _all_requests(found: Snapshots) -> bool | None:
    """Whether the requests of all that is pending are there."""
    pending = found.one(t.APPROVALS_PENDING, m.PendingApprovals)
    if pending is None:
        return None
    there = {request.get("id") for request in found.raw(t.APPROVAL_REQUEST)}
    return False if {item.id for item in pending.items} - there else None


async def approve(world: World, args: Namespace) -> int:
    updated = None
    if args.input is not None:
        try:
            updated = json.loads(args.input)
        except ValueError as error:
            raise UsageError(f"--input is not JSON: {error}") from error
        if not isinstance(updated, dict):
            raise UsageError("--input must be a JSON object: the tool's whole input")
    async with connected(world) as line:
        request, token = await _pick(line, args)
        if request.kind == "question":
            raise RefusedError("bad_request", f"this is a question: use `pointsman answer {request.id[:10]}`")
        decision = m.Decision(
            decision="approve", token=token, reason=args.reason, updated_input=updated, remember=args.remember
        )
        outcome = await line.ask(t.APPROVAL_DECISION, decision, id=request.id)
    return _told(world, request, outcome, "Approved")


async def deny(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        request, token = await _pick(line, args)
        decision = m.Decision(
            decision="deny", token=token, reason=args.reason, interrupt=args.interrupt, remember=args.remember
        )
        outcome = await line.ask(t.APPROVAL_DECISION, decision, id=request.id)
    return _told(world, request, outcome, "Denied")


async def answer(world: World, args: Namespace) -> int:
    async with connected(world) as line:
        request, token = await _pick(line, args)
        if request.kind != "question":
            raise RefusedError(
                "bad_request",
                f"this is no question: use `pointsman approve {request.id[:10]}` or `pointsman deny …`",
            )
        given = request.input
        if request.input_partial:
            whole = await line.ask(t.APPROVAL_SHOW, m.ShowApproval(), id=request.id)
            given = whole.get("input") if isinstance(whole, dict) else given
        questions = questions_in(given)
        if not questions:
            raise RefusedError("bad_request", "the agent's question cannot be read: it can only be denied")
        if args.answer or args.text is not None:
            answers = parse_answers(questions, args.answer or [], args.text)
        elif sys.stdin.isatty():
            answers = {question["question"]: _ask_person(question) for question in questions}
        else:
            example = f'--answer "{one_line(questions[0]["question"], 40)}=…"'
            raise UsageError(
                f"without a terminal give the answers: {example}, or --text for a single question"
            )
        decision = m.Decision(decision="approve", token=token, answers=answers)
        outcome = await line.ask(t.APPROVAL_DECISION, decision, id=request.id)
    return _told(world, request, outcome, "Answered")


def questions_in(given: Any) -> list[dict[str, Any]]:
    """The questions of an AskUserQuestion's input: ``{"question", "options": [{"label", …}], …}``."""
    found = given.get("questions") if isinstance(given, dict) else None
    usable = [q for q in found if isinstance(q, dict)] if isinstance(found, list) else []
    return [question for question in usable if isinstance(question.get("question"), str)]


def labels_of(question: dict[str, Any]) -> list[str]:
    options = question.get("options")
    found = [option for option in options if isinstance(option, dict)] if isinstance(options, list) else []
    return [str(option["label"]) for option in found if "label" in option]


def parse_answers(questions: list[dict[str, Any]], given: list[str], text: str | None) -> dict[str, str]:
    """Answers by question from ``Question=Label`` and ``2=Label`` (the second question), or one free text.

    Raises `UsageError`: each question must have one answer. A label that is not offered is a free text.
    """
    texts = [question["question"] for question in questions]
    if text is not None:
        if len(texts) != 1 or given:
            raise UsageError("--text answers a single question; for several give --answer for each")
        return {texts[0]: text}
    answers: dict[str, str] = {}
    for word in given:
        asked = next((t_ for t_ in texts if word.startswith(f"{t_}=")), None)
        said = word[len(asked) + 1 :] if asked else ""
        if asked is None:
            number, _, said = word.partition("=")
            if number.isdecimal() and 1 <= int(number) <= len(texts):
                asked = texts[int(number) - 1]
        if asked is None or not said:
            listed = "; ".join(f"{n}: {one_line(q, 60)}" for n, q in enumerate(texts, 1))
            raise UsageError(f"--answer {word!r} answers none of the questions ({listed})")
        answers[asked] = said
    missing = [one_line(q, 60) for q in texts if q not in answers]
    if missing:
        raise UsageError(f"not answered: {'; '.join(missing)}")
    return answers


def _ask_person(question: dict[str, Any]) -> str:
    """Show a question with its options and read a number, several, or free text."""
    say(Text(clean(question["question"]), style="bold"))
    labels = labels_of(question)
    options = question.get("options") or []
    for number, label in enumerate(labels, 1):
        about = next((str(o.get("description", "")) for o in options if o.get("label") == label), "")
        say(
            Text(f"  {number}. {one_line(label)}").append(
                f"  {one_line(about)}" if about else "", style="dim"
            )
        )
    several = bool(question.get("multiSelect"))
    how = "numbers, separated by commas," if several else "a number"
    while True:
        said = input(f"{how} or your own words: ").strip()
        if not said:
            continue
        parts = [part.strip() for part in said.split(",")] if several else [said]
        if all(part.isdecimal() for part in parts) and labels:
            if all(1 <= int(part) <= len(labels) for part in parts):
                return ", ".join(labels[int(part) - 1] for part in parts)
            say(f"There are {len(labels)} options.")
            continue
        return said


async def _pick(line: Line, args: Namespace) -> tuple[m.ApprovalRequest, str]:
    """The approval that is meant, and our token for it. Raises `RefusedError`."""
    if bool(args.id) is args.oldest:
        raise UsageError("name an approval (see `pointsman approvals`), or give --oldest")
    found = await line.read(
        t.APPROVALS_PENDING,
        t.APPROVAL_REQUEST,
        (t.APPROVAL_TOKEN, {"user": USER}),
        complete=lambda seen: _all_tokens(seen),
    )
    requests = {request.id: request for request in found.all(t.APPROVAL_REQUEST, m.ApprovalRequest)}
    tokens = {token.id: token.token for token in found.all(t.APPROVAL_TOKEN, m.ApprovalToken)}
    if args.oldest:
        order = _order(found)
        waiting = sorted(requests, key=lambda one: order.get(one, len(order)))
        if not waiting:
            raise RefusedError("unknown_approval", "nothing waits for a decision")
        chosen = waiting[0]
    else:
        meant = [one for one in requests if one == args.id] or [
            one for one in requests if one.startswith(args.id)
        ]
        if not meant:
            others = ", ".join(one[: view.SHORT_ID] for one in requests) or "nothing"
            raise RefusedError(
                "unknown_approval", f"no approval {one_line(args.id)!r} is pending (waiting: {others})"
            )
        if len(meant) > 1:
            raise RefusedError(
                "ambiguous",
                f"{one_line(args.id)!r} begins several: {', '.join(one_line(one) for one in meant)}",
            )
        chosen = meant[0]
    if chosen not in tokens:
        raise RefusedError(
            "not_allowed", f"the user {USER} has no token for {chosen}: it may not decide this one"
        )
    return requests[chosen], tokens[chosen]


def _all_tokens(found: Snapshots) -> bool | None:
    pending = found.one(t.APPROVALS_PENDING, m.PendingApprovals)
    if pending is None:
        return None
    there = {token.id for token in found.all(t.APPROVAL_TOKEN, m.ApprovalToken)}
    if {item.id for item in pending.items} - there:
        return None  # a token may be missing for good: this user may not decide that one
    return _all_requests(found)


def _told(world: World, request: m.ApprovalRequest, outcome: Any, word: str) -> int:
    if world.json:
        say_json(outcome)
        return 0
    changed = " with the input that you gave" if word == "Approved" and outcome.get("updated_input") else ""
    say(
        f"{word}{changed}: {named(request.tool, request.summary, 120)} (session {one_line(request.session)})."
    )
    rule = outcome.get("remembered") if isinstance(outcome, dict) else None
    if rule:
        say(f"Remembered; `pointsman policy forget {one_line(str(rule))}` takes it back.")
    return 0
