"""How dangerous a tool call is: first assessment, by tool and by what stands literally in its input.

It does not parse shell commands yet, so every command counts as high; it follows no symbolic links and sees
no path that a command puts together. It errs towards asking: what it does not know is high, what it
cannot read is critical. `assess` is the whole interface: a deeper assessment takes its place and nothing
else changes.

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
from services.approvals.danger.sight import BLIND, Sight
from services.approvals.reading import Parsed

# tool → level, reason, impact. Tools of Claude Code 2.1; anything else is high.
_READS = ("low", "reads files and changes nothing", "The agent sees what stands in them.")
_WRITES = ("medium", "changes a file", "The file's present content is replaced.")
_NET = (
    "medium",
    "talks to the network",
    "What the agent sends leaves this machine, and what comes back steers it.",
)
_INWARD = ("low", "keeps the agent's own notes", "Nothing outside the agent changes.")
_COMMAND = ("high", "runs a shell command", "A command can do anything that you can do on this machine.")
_TOOLS: dict[str, tuple[str, str, str]] = {
    "Read": _READS,
    "Glob": _READS,
    "Grep": _READS,
    "LS": _READS,
    "NotebookRead": _READS,
    "TodoWrite": _INWARD,
    "TodoRead": _INWARD,
    "BashOutput": ("low", "reads what a running command has said", "Nothing changes."),
    "Write": _WRITES,
    "Edit": _WRITES,
    "MultiEdit": _WRITES,
    "NotebookEdit": _WRITES,
    "WebFetch": _NET,
    "WebSearch": _NET,
    "Task": (
        "medium",
        "starts a subagent",
        "It spends money; its own tool calls are asked about one by one.",
    ),
    "Agent": (
        "medium",
        "starts a subagent",
        "It spends money; its own tool calls are asked about one by one.",
    ),
    "Skill": ("medium", "follows instructions from a file", "What the file says steers the agent."),
    "SlashCommand": ("medium", "follows instructions from a file", "What the file says steers the agent."),
    "KillShell": ("medium", "ends a running command", "What it was doing stays half done."),
    "AskUserQuestion": ("low", "asks you something", "The agent goes on with your answer."),
    "ExitPlanMode": (
        "medium",
        "wants to carry out its plan",
        "The agent leaves plan mode and begins to act.",
    ),
    "Bash": _COMMAND,
}
_UNKNOWN = ("high", "is a tool that Pointsman does not know", "It can do whatever its maker made it do.")
_HOME = (
    "critical",
    "reaches into Pointsman's own home",
    "It can read the keys that approvals rest on, or change them.",
)
_SECRETS = (
    "high",
    "touches keys, credentials or start-up files",
    "It can give away secrets, or run with your next login.",
)
_HIDDEN = ("high", "holds invisible or direction-changing characters", "What you read may not be what runs.")
_DOUBT = ("high", "is not what it seems", "What you read may not be what runs.")
_UNREADABLE = ("critical", "cannot be read", "Nobody can say what would run.")

_SEARCHES = ("Grep", "Glob", "LS")
_PATHS = ("file_path", "notebook_path", "path")
_SENSITIVE = re.compile(
    r"(?:^|/)(?:\.ssh|\.gnupg|\.aws|\.kube|\.git|\.docker|\.netrc|\.npmrc|\.pypirc|\.env(?:\.[\w.-]+)?|\.bashrc|\.zshrc"
    r"|\.profile|\.bash_profile|\.zprofile|\.zshenv|id_(?:rsa|dsa|ecdsa|ed25519)|[^/]*\.(?:pem|key|p12|pfx)"
    r"|\.claude|credentials(?:\.json)?)(?:/|$)"
    r"|^/proc/[^/]+/(?:task/[^/]+/)?(?:environ|mem|fd|root|cwd)(?:/|$)"  # others' secrets, or a way around
)
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\U000e0000-\U000e007f]")
_WORDS = re.compile(r"[^\s'\"`=:;|&<>(){},]+")


def assess(tool: str, parsed: Parsed, cwd: str, home: str, sight: Sight = BLIND) -> Danger:
    """The worst of what is known about this call. ``home`` is Pointsman's own, an absolute path."""
    found = [_TOOLS.get(tool, _UNKNOWN)]
    if parsed.doubt is not None:
        level, reason, impact = _DOUBT if parsed.value else _UNREADABLE
        found.append((level, f"{reason}: {parsed.doubt}", impact))
    spellings = _spellings(home)
    for text in _texts(parsed.value):
        if _INVISIBLE.search(text):
            found.append(_HIDDEN)
        if any(spelling in text for spelling in spellings) or _leads_there(text, cwd, home):
            found.append(_HOME)
    for name in _PATHS:
        path = parsed.value.get(name)
        if isinstance(path, str):
            absolute = posixpath.normpath(posixpath.join(cwd, path))
            if _SENSITIVE.search(absolute):
                found.append(_SECRETS)
    if tool in _SEARCHES and any(_inside(home, place) for place in _searched(parsed.value, cwd)):
        found.append(("high", "searches a tree that holds Pointsman's own home", _HOME[2]))
    if _inside(posixpath.normpath(cwd), home):
        found.append(_HOME)
    level, reason, impact = max(found, key=lambda entry: level_rank(entry[0]))
    return Danger(level=level, reason=f"{tool} {reason}", impact=impact)


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


def _leads_there(text: str, cwd: str, home: str) -> bool:
    """Whether a word of the text, taken as a path from the working directory, is the home or lies in it."""
    last = posixpath.basename(home)
    if ".." not in text and last not in text:
        return False
    return any(
        _inside(posixpath.normpath(posixpath.join(cwd, word)), home)
        for word in _WORDS.findall(text)
        if "/" in word or word == last
    )


def _inside(path: str, tree: str) -> bool:
    return path == tree or path.startswith(tree.rstrip("/") + "/")
