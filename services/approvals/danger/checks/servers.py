"""Checks of what speaks to servers: the web, containers, databases. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from services.approvals.danger import paths
from services.approvals.danger.checks.common import critical, high, medium
from services.approvals.danger.commands import Command
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word

_LOOPBACK = re.compile(
    r"^(https?://)?(localhost|127\.\d+\.\d+\.\d+|\[::1\]|0\.0\.0\.0)(:\d+)?(/|\?|$)", re.IGNORECASE
)


def fetch(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    text = options.joined
    urls = [
        word.text
        for word in options.operands
        if "://" in word.text or _LOOPBACK.match(word.text) or "." in word.text
    ]
    sends = options.has(
        [
            "data",
            "data-raw",
            "data-binary",
            "data-ascii",
            "data-urlencode",
            "json",
            "form",
            "form-string",
            "upload-file",
            "post-data",
            "post-file",
            "body-data",
            "body-file",
            "method",
            "request",
        ]
    ) or re.search(r"(^| )-[a-zA-Z]*[dFTX]", text)
    if re.search(
        r"(^| )(-X|--request|--method)[ =]?(DELETE|PUT|PATCH)|(^| )(delete|put|patch) https?",
        text,
        re.IGNORECASE,
    ):
        yield high("changes or deletes what a server holds", "It may be gone for good.")
        if re.search(r"DELETE", text):
            yield critical("deletes what a server holds", "It may be gone for good.")
    elif sends and not (
        re.search(r"-X ?(GET|HEAD)|--request[= ](GET|HEAD)", text)
        and not re.search(r"--data|(^| )-[dFT]", text)
    ):
        yield high("sends data over the network", "What is sent cannot be taken back.")
    if re.search(
        r"(^| )(-K|--config|--unix-socket|--abstract-unix-socket|--proxy|-x |--socks\S*|"
        r"--use-askpass|--post-file|--input-file|-i |--execute|-e |--netrc\S*|-n |"
        r"--cert|-E |--key|-u |--user[ =]|--next|--libcurl|--engine|--doh-url|--resolve|"
        r"--connect-to|--mirror|-r |--recursive|--insecure|-k )",
        text + " ",
    ):
        yield high("talks to the network in a way of its own")
    if re.search(
        r"(^|=|@| )file:|@[/~.\w-]|\bscp:|\bsmb:|\bgopher:|\bdict:|\btelnet:|\bldap:",
        re.sub(r"\S+@\S+\.\w+", "", text) if "@" in text and not re.search(r"[ =]@", text) else text,
    ):
        yield high("reads a file of this machine", "What is sent cannot be taken back.")
    if re.search(r"(^| )-[a-zA-Z]*[OJ]( |$)|--remote-name", text) or command.name in (
        "wget",
        "aria2c",
        "axel",
        "yt-dlp",
    ):
        yield medium("downloads a file", "What comes may replace a file of the same name.")
    if "169.254.169.254" in text or "metadata.google" in text:
        yield critical("asks for this machine's cloud access", "Whoever has it acts there as you.")
    if re.search(
        r"api\.telegram|webhook|ngrok|requestbin|pastebin|transfer\.sh|0x0\.st|burpcollab|interact\.sh|oast",
        text,
    ):
        yield high("speaks to a place where data is dropped", "What is sent cannot be taken back.")
    del urls


def local_only(command: Command, options: Options) -> bool:
    """``curl -s http://localhost:8000/health``: nothing is sent, nothing leaves this machine."""
    if command.name not in ("curl", "http", "xh") or not options.operands:
        return False
    if not all(_LOOPBACK.match(word.text) and word.literal for word in options.operands):
        return False
    return (
        re.fullmatch(
            r"(-[sSfiIvLG#]+ ?|--(silent|show-error|fail|include|head|verbose|location|"
            r"max-time[ =]?\d+|compressed) ?|-m \d+ ?|-H [\w-]+: ?[\w/.+*-]+ ?|"
            r"-o /dev/null ?|-w [^ @]+ ?|\S*(localhost|127\.0\.0\.1|\[::1\]|"
            r"0\.0\.0\.0)\S* ?)+",
            options.joined,
        )
        is not None
    )


def docker(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    joined = options.joined
    mounts = re.findall(r"(?:-v|--volume|source=|src=|--env-file|--secret\S*src=)[ =]?([^\s:,]+)", joined)
    for mount in mounts:
        yield from paths.judge(mount, "write" if "/" in mount else "none", ground)
    if (
        re.search(r"(^| )(-H|--host|--context|-c)[ =]", " ".join(command.argv[1:4]))
        and "compose" not in command.argv
    ):
        yield high("acts on another machine")


_SQL_CRITICAL = re.compile(
    r"\b(drop|truncate|delete\s+from|flushall|flushdb|dropdatabase|deletemany|"
    r"remove\(|drop\(|shutdown|revoke|detach|"
    r"del\b|unlink\b|purge|delete_all|secrets\s+disable|debug\s+(segfault|reload)|"
    r"config\s+set|slaveof|replicaof|script\s+flush|"
    r"delete_queue|delete|reset|forget_cluster_node|kv\s+delete|operator\s+seal)",
    re.IGNORECASE,
)
_SQL_HIGH = re.compile(
    r"\b(update|insert|alter|create|grant|copy|merge|upsert|call|do|exec\w*|xp_\w+|"
    r"load_file|into\s+(out|dump)file|load_extension|"
    r"attach|vacuum|pg_read_file|lo_import|lo_export|writefile|readfile|edit|set|"
    r"eval|insertone|insertmany|updatemany|write|put|"
    r"unseal|policy|token|module|migrate|config|restore|import)\b|\\!|\\copy|\\o|"
    r"\\w|\\i|^\.|['\"]?\.(shell|system|import|output|once|load|"
    r"read|restore|save|open|log|excel)\b|!",
    re.IGNORECASE,
)


def sql(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    text = " ".join([options.joined, command.fed or ""])
    if _SQL_CRITICAL.search(text):
        yield critical("deletes what a database holds", "It is gone for good, unless somebody has a backup.")
    elif _SQL_HIGH.search(text):
        yield high("changes what a database holds, or runs a program", "It may not be undone.")
    if command.stdin in ("pipe", "file"):
        yield high("runs statements that come from elsewhere")
    if re.search(
        r"(^| )(-f|--file|-i|--init|--init-command|--script|--eval|-o|--output|-L|"
        r"--load\S*|--plugin-dir)[ =]?",
        options.joined,
    ):
        yield high("runs statements from a file, or writes one")
