"""Whether what runs a project's code is told of places or addresses beyond the project. Pure.

Build tools, test runners and interpreters have more options than any table can hold, and most of those that
harm name a file or an address: a configuration, a plugin, a cache, a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from services.approvals.danger import paths
from services.approvals.danger.checks.common import say
from services.approvals.danger.paths import Finding, Ground

_ADDRESS = re.compile(
    r"\b(?:https?|ftp|git|ssh|wss?)(?:\+\w+)?://(?!(?:localhost|127\.0\.0\.1|\[::1\])(?:[:/?#]|$))"
)
_FORGE = re.compile(r"^(?:github|gitlab|bitbucket|codeberg)\.(?:com|org)[/:]")
_EVERYBODY = re.compile(r"(?:^|[=:@/])(?:0\.0\.0\.0|\[::\])(?::\d+)?$")
# `--outDir src`, `-d .`: where a tool writes, it often clears away what stood there
_OVER_SOURCES = re.compile(
    r"(?:^| )-{1,2}(?:[\w.-]*(?:out|dest|dist|temp|tmp|target-dir|report|artifact|coverage)[\w.-]*|d|o)[= ]"
    r"(?:\w+:)?(?:\.|(?:\./)?(?:src|sources?|tests?|packages|services|internal|cmd|include|\.git))/?(?= |$)",
    re.IGNORECASE,
)
_PLACE = re.compile(r"(?:/|~|\.\.(?:/|$))")


def over_sources(joined: str) -> Iterator[Finding]:
    """Whether what runs a project's code is told to write where its sources stand."""
    if _OVER_SOURCES.search(joined):
        yield say("over_sources")


def reach(texts: Iterable[str], ground: Ground) -> Iterator[Finding]:
    """``texts`` are arguments, or the values of options: ``x=/tmp/y`` is looked at part by part."""
    for text in texts:
        if _EVERYBODY.search(text):
            yield say("opened")
        if _ADDRESS.search(text) or _FORGE.match(text):
            yield say("named_net")
        elif "://" not in text:
            for part in re.split(r"[=,:;@]", text):
                if _PLACE.match(part) and _outside(part, ground):
                    yield say("elsewhere")


def _outside(path: str, ground: Ground) -> bool:
    return paths.scratch(path) or bool(paths.judge(path, "read", ground))
