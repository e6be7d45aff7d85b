"""What stands on the screen of Claude Code, read from tmux's copy of it. Pure.

Keys are never sent blindly: a dialog is known by its options, of which one is marked with ``❯``, and the
input line by the rule above it, under which it begins with the same mark. Seen with 2.1.119 and 2.1.329;
a screen that is not understood counts as one that takes no text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MARK = "❯"
# Indented: what was said before begins with the same mark at the very left.
_OPTION = re.compile(rf"^(\s+)({MARK} | {{2}})(?:\d+\. )?(\S.*?)\s*$")
_RULE = re.compile(r"^[─╭╮ ]*─{20,}")
_TRUST = re.compile(r"^Yes, (I trust|proceed)", re.IGNORECASE)
_HINT = re.compile(r'^Try "')  # grey words that an empty input line shows
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Dialog:
    """Something that waits for a choice. ``chosen``: index of the marked option."""

    options: tuple[str, ...]
    chosen: int

    @property
    def trust(self) -> int | None:
        """The option that trusts the directory, if this dialog asks that."""
        return next((i for i, option in enumerate(self.options) if _TRUST.match(option)), None)


def dialog(text: str) -> Dialog | None:
    """The dialog at the bottom of the screen; what stands above an input line is past."""
    lines = text.splitlines()
    for at in range(len(lines) - 1, -1, -1):
        marked = _OPTION.match(lines[at])
        if at > 0 and lines[at].startswith(MARK) and _RULE.match(lines[at - 1]):
            return None
        if marked is None or MARK not in marked[2]:
            continue
        first, last = at, at
        while first > 0 and _beside(lines[first - 1], marked):
            first -= 1
        while last + 1 < len(lines) and _beside(lines[last + 1], marked):
            last += 1
        if last > first:
            found = [_OPTION.match(line) for line in lines[first : last + 1]]
            return Dialog(tuple(option[3] for option in found if option), at - first)
    return None


def _beside(line: str, marked: re.Match[str]) -> bool:
    """Whether a line is another option of the same list."""
    option = _OPTION.match(line)
    return option is not None and MARK not in option[2] and option[1] == marked[1]


def draft(text: str) -> str | None:
    """What stands in the input line; None where there is none."""
    lines = text.splitlines()
    for at in range(len(lines) - 1, 0, -1):
        if lines[at].startswith(MARK) and _RULE.match(lines[at - 1]):
            said = []
            for line in lines[at:]:
                if _RULE.match(line):
                    break
                said.append(line.removeprefix(MARK).strip())
            words = " ".join(said).replace("\xa0", " ").strip()
            return "" if _HINT.match(words) else words
    return None


def takes_text(text: str) -> bool:
    """Whether keys would go into an empty input line."""
    return dialog(text) is None and draft(text) == ""


def holds(shown: str, text: str) -> bool:
    """Whether this very text stands in the input line, however it is broken into lines there."""
    typed = "".join(typeable(text).split())
    return typed != "" and "".join((draft(shown) or "").split()) == typed


def works(text: str) -> bool:
    """Whether a turn runs: it says how to end it."""
    return "esc to interrupt" in text


def trust_key(found: Dialog) -> str | None:
    """The one next key towards trusting the directory; the screen is looked at again after each."""
    if found.trust is None:
        return None
    if found.trust == found.chosen:
        return "Enter"
    return "Down" if found.trust > found.chosen else "Up"


def waits_at(found: Dialog, session: str, cwd: str) -> str:
    """What keeps a session from starting, and what to do, for the user."""
    if found.trust is not None:
        return (
            f"Claude Code asks on its screen whether {cwd} is trusted: answer there "
            f"(`pointsman attach {session}`), or end the session and open it again with --trust"
        )
    return (
        f"a dialog stands on its screen ({found.options[0][:80]} / {found.options[-1][:80]}): answer there "
        f"(`pointsman attach {session}`)"
    )


def typeable(text: str) -> str:
    """A prompt as it may be pasted: without control characters, which could end the paste, and not beginning
    with what the input line takes for a shell command or a note.
    """
    clean = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return f" {clean}" if clean[:1] in ("!", "#", "&") else clean
