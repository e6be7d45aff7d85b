"""Checks of what runs programs: interpreters, npx, and targets of a build. Pure."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Sequence

from services.approvals.danger import known, paths
from services.approvals.danger.checks.common import by_name, critical, fed, high, medium
from services.approvals.danger.checks.reach import reach
from services.approvals.danger.commands import Command
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word
from services.approvals.danger.wrappers import name_of

_CODE_HIGH = re.compile(
    r"rmtree|\brm(Sync|dir|Dir)?\b|require\(|\bimport (os|shutil|pty|glob|"
    r"pathlib|tempfile)|unlink|remove|rmdir|system|popen|subprocess|spawn|exec|eval|"
    r"compile|__import__|importlib|getattr|fork|kill"
    r"|socket|urllib|requests|httpx|http\.|https?:|fetch\(|open\(.*['\"][wax+]|"
    r"write|truncate|chmod|chown|rename|replace\("
    r"|shutil|ctypes|pickle|marshal|codecs|b64|base64|fromCharCode|chr\(|\\x|"
    r"child_process|fs\.|Deno|Bun|`|qx|%x|"
    r"File\.|FileUtils|IO\.|Dir\.|Kernel|environ|process\.env|ENV|getenv|ptrace|setuid|do shell script|os\.",
    re.IGNORECASE,
)
_INLINE: dict[str, str] = {
    "python": "c",
    "pypy": "c",
    "ipython": "c",
    "jython": "c",
    "micropython": "c",
    "node": "ep",
    "nodejs": "ep",
    "ts-node": "ep",
    "tsx": "ep",
    "perl": "eE",
    "ruby": "e",
    "jruby": "e",
    "irb": "e",
    "php": "rBRE",
    "lua": "e",
    "luajit": "e",
    "Rscript": "e",
    "R": "e",
    "guile": "c",
    "racket": "e",
    "ghci": "e",
    "runghc": "e",
    "erl": "",
    "elixir": "e",
    "iex": "e",
    "scala": "e",
    "osascript": "e",
    "julia": "eE",
    "qjs": "e",
    "d8": "e",
    "babel-node": "ep",
    "gjs": "c",
    "sbcl": "",
    "ocaml": "e",
    "octave": "",
    "swipl": "g",
    "pry": "e",
    "tclsh": "",
    "clisp": "x",
    "bpython": "c",
}
_VALUES: dict[str, str] = {
    "python": "WX",
    "pypy": "WX",
    "ruby": "IrCEK",
    "perl": "",
    "node": "",
    "php": "dcS",
    "lua": "l",
}
_LOADS = re.compile(
    r"(^| )(-r|-I|-M|-S|-m[A-Z]|--(require|import|loader|experimental-loader|env-file|"
    r"inspect\S*|eval|print|input-type|preload"
    r"|require-module|interpreter|exec|run|init|rcfile|check-hash-based-pycs|allow-\S+|redirect-warnings"
    r"|trace-event\S*|\w+-prof-dir|report-\w+|diagnostic-dir|heapsnapshot\S*|snapshot-blob|openssl-config"
    r"|build-snapshot)( |=|$))"
)
_SERVERS = frozenset(
    [
        "gunicorn",
        "uvicorn",
        "hypercorn",
        "flask",
        "fastapi",
        "daphne",
        "waitress-serve",
        "streamlit",
        "jupyter",
        "celery",
        "nodemon",
    ]
)
_HOSTS = _SERVERS | {
    "alembic", "django-admin", "manage.py", "pm2", "forever", "locust", "papermill", "py-spy",
}  # fmt: skip  # programs that run others' code without being a language
_PYTHONS = ("python", "pypy")
_FOR_TYPING = ("python", "python3", "node", "irb", "ipython")
_INLINE_LONG = ("--eval", "--print", "--run", "-r", "--rpc-eval", "-eval")
_MODULES = frozenset(
    [
        "pytest",
        "unittest",
        "json.tool",
        "venv",
        "timeit",
        "compileall",
        "doctest",
        "cProfile",
        "pstats",
        "tokenize",
        "dis",
        "ast",
        "this",
        "calendar",
        "platform",
        "site",
        "sysconfig",
        "tabnanny",
        "py_compile",
        "trace",
        "pdb",
        "build",
    ]
)


def interpreter(command: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    name = re.sub(r"[\d.]+$", "", command.name) or command.name
    words = list(rest)
    joined = " ".join(word.text for word in words)
    if command.name in _HOSTS:
        yield from managed(command.name, joined)
        yield from reach((word.text for word in words), ground)
        return
    if name not in _PYTHONS and _LOADS.search(joined):
        yield medium("loads other code, or runs a text")
    position = yield from _own_options(name, words, ground)
    if position is None:
        return
    if position >= len(words) or words[position].text in ("-", "/dev/stdin"):
        yield from _without_program(command, words)
        return
    yield from reach((re.sub(r"^-\w(?=[/~.])", "", word.text) for word in words[:position]), ground)
    yield from _program(words[position], words[position + 1 :], ground)


def _own_options(name: str, words: Sequence[Word], ground: Ground) -> Generator[Finding, None, int | None]:
    """An interpreter's options. Returns where its program should stand; None: a text or a module is run, or
    nothing.
    """
    inline = _INLINE.get(name, "ec")
    values = _VALUES.get(name, "")
    position = 0
    while position < len(words):
        text = words[position].text
        if text == "-" or not text.startswith("-"):
            break
        if text in ("--version", "-V", "--help", "-VV", "--test") and len(words) == 1:
            return None
        if text in _INLINE_LONG or (not text.startswith("--") and set(text[1:]) & set(inline)):
            attached = re.sub(r"^-[a-zA-Z]", "", text) if len(text) > 2 and text[1] in inline else ""
            yield _text(attached + " ".join(word.text for word in words[position + 1 :]))
            return None
        if name in _PYTHONS and re.match(r"-[a-zA-Z]*m", text):
            following = words[position + 1].text if position + 1 < len(words) else ""
            module = re.sub(r"^-[a-zA-Z]*?m", "", text) or following
            yield from _module(module, words[position + 2 :], ground)
            if module not in known.NAMES:
                yield from reach((word.text for word in words[position + 2 :]), ground)
            return None
        if not text.startswith("--") and text[1] in values and len(text) == 2:
            position += 1
        elif name == "perl" and re.search(r"[npi]", text):
            yield high("changes files by a text")
        elif text.startswith("--") and name in _PYTHONS:
            yield medium("is started in another way")
        position += 1
    return position


def _text(code: str) -> Finding:
    """A program that stands in the command line."""
    what = "runs a text as a program"
    if _CODE_HIGH.search(code):
        return high(f"{what}, which can change files or reach the network", "It runs as you.")
    return medium(what, "It runs as you.")


def _without_program(command: Command, words: Sequence[Word]) -> Iterator[Finding]:
    """It takes what it is fed, or waits for somebody who types."""
    typed = command.name in _FOR_TYPING and not command.stdin and not words
    found = [] if typed else list(fed(command))
    yield from found or [medium("starts and waits for what comes")]


def _program(program: Word, arguments: Sequence[Word], ground: Ground) -> Iterator[Finding]:
    if not program.literal:
        yield high("runs a file that cannot be told")
    yield from by_name(program.text)
    yield from paths.judge(program.text, "run", ground, glob=program.glob)
    yield from paths.judge(program.text, "read", ground, glob=program.glob)
    if "://" in program.text or re.fullmatch(r"[a-z]+:.*", program.text):
        yield high("runs a program from the network")
    yield from managed(name_of(program.text), " ".join(word.text for word in arguments))
    for word in arguments:
        yield from paths.judge(word.text.partition("=")[2] or word.text, "none", ground, glob=word.glob)


def managed(program: str, joined: str) -> Iterator[Finding]:
    """Programs of frameworks that can drop a database, as everybody knows them."""
    if re.search(
        r"\b(flush|sqlflush|reset_db|drop\w*|downgrade|destroy|db:drop|db:reset|wipe|"
        r"delete_all|purge|loaddata|killall|delete)\b",
        joined,
    ):
        yield critical("drops what a database holds", "It is gone for good, unless somebody has a backup.")
    elif re.search(
        r"\b(shell\w*|tinker|console|dbshell|migrate|upgrade|createsuperuser|changepassword|deploy|"
        r"publish|upload|release|sendtestemail|dumpdata|stamp|control|key:generate|env:\w+|"
        r"labextension|password|trust|down)\b|"
        r"(?:\b|--)(?:clear|delete|drop|erase|prune|purge|remove|reset|truncate|wipe)_\w|"
        r"--(?:clear|delete|prune|purge|remove|truncate|wipe)\b",
        joined,
    ):
        yield medium("changes a database, or more than the project")
    elif program in _SERVERS and re.search(
        r"0\.0\.0\.0|--host[= ](?!127|localhost)|--reload-dir|--config", joined
    ):
        yield medium("opens this machine to others")
    elif program == "setup.py" and re.search(
        r"\b(install|develop|upload|register|easy_install|bdist\w*|sdist)\b", joined
    ):
        yield medium("installs or publishes a package")
    if program == "py-spy" and re.search(r"(^| )(-p|--pid)\b", joined):
        yield medium("looks into another program", "It may hold secrets.")
    if program in ("pm2", "forever"):
        yield medium("keeps a program running")


def _module(module: str, rest: Sequence[Word], ground: Ground) -> Iterator[Finding]:
    if module == "pip":
        return  # judged as the command that it is
    if module == "json.tool":  # its second file is written
        files = [word for word in rest if not re.match(r"-|\d+$", word.text)]
        for word in files[1:]:
            yield from paths.judge(word.text, "write", ground, glob=word.glob)
    if module in _MODULES:
        joined = " ".join(word.text for word in rest)
        if module in ("timeit", "trace", "pdb", "cProfile") and (
            _CODE_HIGH.search(joined) or module == "pdb"
        ):
            yield high("runs a text as a program")
        elif module == "timeit":
            yield medium("runs a text as a program", "It runs as you.")
        return
    if module in known.NAMES or re.fullmatch(
        r"(src|app|tests?|scripts?|tools?|examples?|services?)(\.\w+)*|"
        r"[a-z_]\w*(\.[a-z_]\w*)+|[a-z_]+_[a-z_]+",
        module,
    ):
        if module.partition(".")[0] in (
            "http",
            "ftplib",
            "smtpd",
            "smtplib",
            "xmlrpc",
            "telnetlib",
            "zipapp",
            "zipfile",
            "tarfile",
            "shutil",
            "pip",  # and what lies in it
            "ensurepip",
            "idlelib",
            "code",
            "asyncio",
            "webbrowser",
            "antigravity",
            "base64",
            "sqlite3",
            "lib2to3",
            "pydoc",
            "os",
            "runpy",
            "ctypes",
            "pickle",
            "pickletools",
            "distutils",
            "concurrent",
            "multiprocessing",
            "urllib",
            "socketserver",
            "cgi",
            "wsgiref",
            "email",
            "logging",
        ):
            yield medium("runs a module that does more than compute")
        yield from by_name(module.rpartition(".")[2])
        yield from managed("", " ".join(word.text for word in rest))
        return
    yield medium("runs a module that Pointsman does not know")


def runner(_c: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """npx and the like: low for the tools that a project's packages hold, by name."""
    words = [word.text for word in rest]
    while words and words[0] in (
        "-y",
        "--yes",
        "--no",
        "--no-install",
        "-q",
        "--quiet",
        "--",
        "--prefer-offline",
    ):
        words.pop(0)
    if not words:
        yield high("downloads and runs a program")
        return
    tool = re.sub(r"@(latest|[\d.^~x]+)$", "", words[0])
    if tool not in known.TOOLS:
        yield high(
            "downloads and runs a program that Pointsman does not know", "Foreign code runs as you at once."
        )
    elif tool != words[0]:
        yield medium("downloads and runs a program", "Foreign code runs as you at once.")


_TARGET_HIGH = re.compile(
    r"(^|[.:_/+-])((un)?deploy\w*|(un)?publish\w*|release\w*|(un)?install([A-Z]\w*)?|destroy\w*|drop|"
    r"nuke|purge|wipe\w*|prod|production|push|upload\w*|db:schema:load|"
    r"ship|rollback|reset|teardown|distclean|mrproper|apply|provision|terraform|"
    r"prune|delete\w*|remove\w*|flash|"
    r"submit|promote|format-disk|clobber|expunge|obliterate|truncate\w*|erase|"
    r"(drop|reset|flush|restore|clear|recreate|rm|kill)[_:-]?(db|database|data|backup|volume|table|all)s?|"
    r"(db|database|data|backup)[_:-]restore)([:_/-]|$)"
)


_NAME_TARGETS_BY_OPTION = frozenset({"nx", "turbo", "lerna", "ng", "pants"})  # nx affected -t deploy


def targets(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """Whose target is called deploy deploys: the contents of the project's files are not read."""
    name = command.name
    if name in (
        "npm",
        "pnpm",
        "yarn",
        "composer",
        "bundle",
        "brew",
        "pod",
        "mix",
        "dotnet",
        "opam",
        "cabal",
        "stack",
    ) and command.argv[1:2] in (("install",), ("i",)):
        return
    named = [word for word, kind in options.parts() if kind in ("operand", "skipped", "value", "other")]
    for word in named if name in _NAME_TARGETS_BY_OPTION else options.operands:
        found = _TARGET_HIGH.search(word.text)
        if found and "." not in word.text.rpartition("/")[2][-4:]:
            for_good = re.search(
                r"destroy|drop|nuke|purge|wipe|teardown|db:reset|obliterate|truncate|flush", word.text
            )
            if for_good:
                yield critical(
                    f"runs the target {word.text[:40]!r}", "By its name it destroys something for good."
                )
            else:
                yield high(
                    f"runs the target {word.text[:40]!r}", "By its name it reaches beyond the project."
                )
        elif re.search(r"(^|[.:_/-])(migrate|seed)\w*", word.text):
            yield medium("runs a target that by its name changes a database")
    if name in ("make", "gmake") and command.stdin and re.search(r"-f ?-", options.joined):
        yield from fed(command)
    if options.has(["eval", "E"]) and name in ("make", "gmake"):
        yield high("runs a text of its own")
