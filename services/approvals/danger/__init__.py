"""How dangerous a tool call is, and why, in words for a person. Pure: what it sees of the world is handed in.

`assess` is the whole interface of the gate. Shell commands are parsed (`commands`, from the syntax tree of
shfmt) and held against a knowledge base (`known/*.toml`, `judge`, `checks`); paths are judged as they are
written and as they are behind symbolic links (`paths`). It errs towards asking: a command that it does not
know is high, as is what cannot be parsed; anything that is not plain literal text is at least medium.

What ``low`` means: what a user may let run without being asked. It reads, or builds, tests and formats the
project, or changes what can be taken back, within the working directory. It may run the project's own code,
which does what stands in it.

    commands, words      from a shell text to its commands, and what is known of their words
    options, wrappers    a command's arguments, and those that are commands themselves
    judge, known/        commands against the knowledge base; `checks` where a table does not do
    paths                what it means to reach a file
    sight                what may be seen of the world

For rules by parsed command: `services.approvals.danger.commands.read(text, sight, cwd)` gives the `Shell` of
a command line: ``commands`` (each with ``words``, ``argv``, ``name``, ``via``, ``str()``), ``redirects``,
``findings`` and ``whole``; its docstring says what a rule that allows, or denies, must look at.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from bus.messages import Danger, level_rank
from services.approvals.danger import judge, paths
from services.approvals.danger.known import Mode
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.sight import BLIND, Sight, TooLongError
from services.approvals.reading import Parsed

# Tools of Claude Code 2.1; anything else is high.
_READS = Finding("low", "reads files and changes nothing", "The agent sees what stands in them.")
_WRITES = Finding("medium", "changes a file", "The file's present content is replaced.")
_NET = Finding(
    "medium",
    "talks to the network",
    "What the agent sends leaves this machine, and what comes back steers it.",
)
_INWARD = Finding("low", "keeps the agent's own notes", "Nothing outside the agent changes.")
_SUBAGENT = Finding(
    "medium", "starts a subagent", "It spends money; its own tool calls are asked about one by one."
)
_INSTRUCTED = Finding("medium", "follows instructions from a file", "What the file says steers the agent.")
_TOOLS: dict[str, Finding] = {
    "Read": _READS,
    "Glob": _READS,
    "Grep": _READS,
    "LS": _READS,
    "NotebookRead": _READS,
    "TodoWrite": _INWARD,
    "TodoRead": _INWARD,
    "BashOutput": Finding("low", "reads what a running command has said", "Nothing changes."),
    "Write": _WRITES,
    "Edit": _WRITES,
    "MultiEdit": _WRITES,
    "NotebookEdit": _WRITES,
    "WebFetch": _NET,
    "WebSearch": _NET,
    "Task": _SUBAGENT,
    "Agent": _SUBAGENT,
    "Skill": _INSTRUCTED,
    "SlashCommand": _INSTRUCTED,
    "KillShell": Finding("medium", "ends a running command", "What it was doing stays half done."),
    "AskUserQuestion": Finding("low", "asks you something", "The agent goes on with your answer."),
    "ExitPlanMode": Finding(
        "medium", "wants to carry out its plan", "The agent leaves plan mode and begins to act."
    ),
    "Bash": Finding("low", "runs a shell command", "It does what it says."),
}
_UNKNOWN = Finding(
    "high", "is a tool that Pointsman does not know", "It can do whatever its maker made it do."
)
_HOME_IMPACT = "It can read the keys that approvals rest on, or change them."
_HOME = Finding("critical", "reaches into Pointsman's own home", _HOME_IMPACT)
_ABOVE_HOME = Finding("high", "searches a tree that holds Pointsman's own home", _HOME_IMPACT)
_HIDDEN = Finding(
    "high", "holds invisible or direction-changing characters", "What you read may not be what runs."
)
_DOUBT = Finding("high", "is not what it seems", "What you read may not be what runs.")
_UNREADABLE = Finding("critical", "cannot be read", "Nobody can say what would run.")

_SEARCHES = ("Grep", "Glob", "LS")
_PATHS = ("file_path", "notebook_path", "path")
_MODES: dict[str, Mode] = {
    "Read": "read",
    "NotebookRead": "read",
    "Grep": "read",
    "Glob": "list",
    "LS": "list",
    "Write": "write",
    "Edit": "write",
    "MultiEdit": "write",
    "NotebookEdit": "write",
}
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_WORDS = re.compile(r"[^\s'\"`=:;|&<>(){},]+")


def assess(tool: str, parsed: Parsed, cwd: str, home: str, sight: Sight = BLIND) -> Danger:
    """The worst of what is known about this call. ``home`` is Pointsman's own, an absolute path."""
    ground = Ground(posixpath.normpath(cwd or "/"), posixpath.normpath(home), sight.once())
    found: list[Finding] = []
    try:
        for finding in _all(tool, parsed, ground):
            found.append(finding)  # what was found before the patience is over stands
    except TooLongError:
        found.append(judge.said("too_long"))
    worst = max(found, key=lambda finding: level_rank(finding.level))  # the first of the worst
    others = {one.reason for one in found if one.level == worst.level} - {worst.reason}
    more = f"; and {len(others)} more" if others and worst.level != "low" else ""
    return Danger(level=worst.level, reason=f"{tool} {worst.reason}{more}", impact=worst.impact)


def _all(tool: str, parsed: Parsed, ground: Ground) -> Iterator[Finding]:
    yield from _of_any_tool(tool, parsed, ground)
    yield from _of_paths(tool, parsed.value, ground)
    if tool == "Bash":
        yield from _of_shell(parsed.value, ground)


def _of_any_tool(tool: str, parsed: Parsed, ground: Ground) -> Iterator[Finding]:
    if tool != "Bash":
        yield _TOOLS.get(tool, _UNKNOWN)
    if parsed.doubt is not None:
        level, reason, impact = _DOUBT if parsed.value else _UNREADABLE
        yield Finding(level, f"{reason}: {parsed.doubt}", impact)
    spellings = _spellings(ground.home)
    for text in ground.sight.through(_texts(parsed.value)):
        if _INVISIBLE.search(text):
            yield _HIDDEN
        if any(spelling in text for spelling in spellings) or _leads_there(text, ground):
            yield _HOME
    if paths.inside(ground.cwd, ground.home):
        yield _HOME


def _of_paths(tool: str, value: dict[str, Any], ground: Ground) -> Iterator[Finding]:
    mode = _MODES.get(tool, "none")
    for name in _PATHS:
        path = value.get(name)
        if isinstance(path, str) and path:
            yield from paths.judge(path, mode, ground)
        elif path and tool in _MODES:
            yield _UNREADABLE
    if tool in _SEARCHES:
        if any(paths.inside(ground.home, place) for place in _searched(value, ground.cwd)):
            yield _ABOVE_HOME
        for name in ("glob", "pattern") if tool == "Glob" else ("glob",):
            pattern = value.get(name)
            if isinstance(pattern, str):
                yield from paths.judge(pattern, mode, ground, glob=True)


def _of_shell(value: dict[str, Any], ground: Ground) -> Iterator[Finding]:
    command = value.get("command")
    if not isinstance(command, str):
        yield _UNREADABLE
        return
    if value.get("dangerouslyDisableSandbox"):
        yield judge.said("unsandboxed")
    try:
        yield from judge.shell(command, ground)
    except TooLongError:
        raise
    except Exception:  # noqa: BLE001  # our own fault must not stop the gate: it would be asked again
        yield judge.said("unjudged")
    yield _TOOLS["Bash"]


def _searched(value: dict[str, Any], cwd: str) -> Iterator[str]:
    """Where a search begins: at its path, else in the working directory, or where a pattern says."""
    path = value.get("path")
    base = posixpath.join(cwd, path) if isinstance(path, str) else cwd
    yield posixpath.normpath(base)
    for name in ("pattern", "glob"):
        text = value.get(name)
        if isinstance(text, str) and (text.startswith("/") or ".." in text):
            literal = re.split(r"[*?\[{]", text, maxsplit=1)[0]
            yield posixpath.normpath(posixpath.join(base, literal.rpartition("/")[0] or "/"))


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too; without recursion, whatever its depth."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _spellings(home: str) -> list[str]:
    """The ways in which a shell command may write the home literally."""
    spelled = [home]
    found = re.match(r"^(/home/[^/]+|/Users/[^/]+|/root)/(.+)$", home)
    if found:
        spelled += [f"{start}/{found[2]}" for start in ("~", "$HOME", "${HOME}")]
    return spelled


def _leads_there(text: str, ground: Ground) -> bool:
    """Whether a word of the text, taken as a path from the working directory, is the home or lies in it."""
    last = posixpath.basename(ground.home)
    if ".." not in text and last not in text:
        return False
    return any(
        paths.inside(posixpath.normpath(posixpath.join(ground.cwd, word)), ground.home)
        for word in ground.sight.through(_words(text))
        if "/" in word or word == last
    )


def _words(text: str) -> Iterator[str]:
    return (found[0] for found in _WORDS.finditer(text))
