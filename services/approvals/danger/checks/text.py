"""Checks of sed and awk, whose arguments are programs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.approvals.danger import paths
from services.approvals.danger.checks.common import high, medium
from services.approvals.danger.commands import Command
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word

_SED_ADDRESS = r"(?:\d+|\$|/(?:[^/\\\n]|\\.)*/I?|\\(.)(?:(?!\1).)*\1)(?:~\d+)?"
_SED_COMMAND = re.compile(
    r"\s*(?:(?:\d+|\$|/(?:[^/\\\n]|\\.)*/I?)(?:~\d+)?\s*(?:,\s*(?:[+~]?\d+|\$|"
    r"/(?:[^/\\\n]|\\.)*/I?))?\s*)?!?\s*"
    r"(?:[pdPDqQ=lgGhHxnNz{}]\d*"
    r"|s([/|#,@!:_%;+~])(?:(?!\1)[^\\\n]|\\.)*\1(?:(?!\1)[^\\\n]|\\.)*\1[gpiI0-9]*"
    r"|y([/|#,@])(?:(?!\2)[^\\\n]|\\.)*\2(?:(?!\2)[^\\\n]|\\.)*\2"
    r"|[aic]\\?\s*[^\n]*)\s*(?:;|\n|(?=\})|$)"
)


def sed(_c: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    scripts: list[Word] = []
    files: list[Word] = []
    in_place = False
    position = 0
    words = list(rest)
    given = any(re.match(r"-[a-zA-Z]*[ef]$|--(expression|file)|-e", word.text) for word in words)
    while position < len(words):
        text = words[position].text
        if re.fullmatch(r"-[nErsuz]*e", text) or text == "--expression":
            position += 1
            if position < len(words):
                scripts.append(words[position])
        elif text.startswith("--expression="):
            scripts.append(Word(text.partition("=")[2]))
        elif re.match(r"-[nErsuz]*i|--in-place", text):
            in_place = True
            if "e" in text[2:] and not text.startswith("--"):
                yield high("runs a text that cannot be read here")
        elif re.fullmatch(
            r"-[nErsuz]+|--(quiet|silent|regexp-extended|null-data|separate|unbuffered|"
            r"posix|sandbox|debug|version|help)",
            text,
        ):
            pass
        elif text.startswith("-") and len(text) > 1:
            yield high("takes its commands from elsewhere")
        elif not given and not scripts:
            scripts.append(words[position])
        elif not (in_place and text == ""):
            files.append(words[position])
        position += 1
    for script in scripts:
        if not _harmless_sed(script.text):
            yield high("runs a sed command that can write files or run programs")
    for word in files:
        yield from paths.judge(word.text, "write" if in_place else "read", ground, glob=word.glob)
    if in_place:
        yield medium("changes files", "What stood there before is replaced.")


def _harmless_sed(script: str) -> bool:
    position = 0
    if len(script) > 2000:
        return False
    while position < len(script):
        if script[position] in " \t\n;}":
            position += 1
            continue
        found = _SED_COMMAND.match(script, position)
        if found is None or found.end() == position:
            return False
        position = found.end()
    return True


def awk(command: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    words = list(rest)
    position = 0
    while position < len(words) and words[position].text.startswith("-") and len(words[position].text) > 1:
        text = words[position].text
        if text == "--":
            position += 1
            break
        if text in ("-F", "-v", "--field-separator", "--assign"):
            position += 1
        elif not re.match(
            r"-F.|-v.|--(field-separator|assign)=|--(version|posix|traditional|re-interval|csv)$", text
        ):
            yield high("takes its program from elsewhere")
        position += 1
    if position < len(words):
        program = words[position].text
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', program)
        bare = re.sub(r"/(?:[^/\\\n]|\\.)+/", " ", bare) if "system" not in bare else bare
        if re.search(r"system|getline|@|/inet|\b(ENVIRON|ARGV|ARGC)\b|fflush|close|extension", program):
            yield high("can run programs or read other files", "What stands in its program runs as you.")
        elif "|" in bare.replace("||", "") or re.search(r"print[^;}\n]*>", bare):
            yield high("writes files or runs programs from its program")
    for word in words[position + 1 :]:
        yield from paths.judge(word.text, "read", ground, glob=word.glob)
