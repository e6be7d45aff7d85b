"""Checks of git. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from services.approvals.danger import paths
from services.approvals.danger.checks.common import critical, high, medium
from services.approvals.danger.commands import Command
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word


def git_read(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    if command_paths := [word for word in options.operands if ":" in word.text]:
        for word in command_paths:
            yield from paths.judge(word.text.rpartition(":")[2], "none", ground)
    for word in options.operands:  # a pattern of git's own: `git grep x -- '.e*'`
        if paths.wild(word.text):
            yield from paths.judge(word.text, "none", ground, glob=True)


def git_add(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for word in options.operands:
        for finding in paths.judge(word.text, "none", ground, glob=word.glob):
            if finding.level in ("high", "critical"):
                yield Finding(
                    finding.level, "takes secrets or settings into a commit", "Once pushed, they are known."
                )
    if options.has(["f", "force", "i", "e", "edit"]):
        yield medium("takes files into the commit that git was told to ignore")


def git_checkout(
    command: Command, rest: Sequence[Word], options: Options, ground: Ground
) -> Iterator[Finding]:
    texts = [word.text for word in rest]
    lost = "changes that are not committed are thrown away"
    if (
        ("--" in texts and texts[-1] != "--")
        or "." in texts
        or any(re.search(r"^\./|/$|\*|^:", text) for text in texts)
    ):
        yield high(f"takes files from a commit: {lost}", "They are gone for good.")
    names = [word.text for word in options.operands]
    if options.has(["b", "c", "B", "C", "create", "orphan", "t", "track"]):
        return  # the name is a new one
    if len(names) > 1:
        yield high(f"takes files from a commit: {lost}", "They are gone for good.")
    elif names and (
        any(ground.sight.exists(posixpath.join(start, names[0])) for start in ground.starts)
        or (
            re.search(r"\.[A-Za-z]{1,5}$", names[0])
            and not re.match(r"(v?\d|release|hotfix|feature|fix)", names[0])
        )
    ):
        yield high(f"may take a file from the last commit: {lost}", "They are gone for good.")


def git_remote(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for position, word in enumerate(options.operands if command.argv[1:2] != ("remote",) else rest):
        text = word.text
        if re.search(r"^(\w+::|-{0,2}[\w-]*=?\w+::)|^ext::", text):
            yield critical("gets commits by running a program", "That program runs as you.")
        elif (position == 0 and re.search(r"^[\w.-]+:[^:]", text)) or (
            re.search(r"://|^[\w.-]+@[\w.-]+:|^(/|\.\.|~)", text) and command.argv[1:2] != ("clone",)
        ):
            yield high(
                "speaks to another server than the repository's own",
                "What is sent there cannot be taken back.",
            )
    operands = [word.text for word in options.operands]
    if "stdin" in options.joined and command.stdin:
        yield medium("takes names from elsewhere")
    if command.argv[1:2] == ("worktree",) and "--force" in options.joined and "remove" in operands:
        yield high("removes a working tree with its changes", "They are gone for good.")


_GIT_KEYS = re.compile(
    r"(^|\.)(pager|editor|hookspath|sshcommand|fsmonitor|askpass|gitproxy|"
    r"attributesfile|excludesfile|external|textconv|command"
    r"|clean|smudge|process|helper|program|cmd|path|insteadof|pushinsteadof|"
    r"uploadpack|receivepack|proxy|sslverify|sendemail"
    r"|allow|driver|worktree|url|update|browser|templatedir|safe|directory)$|"
    r"^(alias|include|includeif|filter|credential|protocol"
    r"|http|url|pager|difftool|mergetool|browser|man|gpg|submodule|uploadpack|safe|core\.bare)\b",
    re.IGNORECASE,
)


def git_config(_c: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    for word in options.operands if len(options.operands) > 1 else ():
        if _GIT_KEYS.search(word.text.partition("=")[0]):
            yield high(
                "sets what programs git runs, or whom it trusts", "The next git command runs them, unasked."
            )
