"""What a table cannot say: commands whose arguments are a language of their own. Pure.

Each check takes the command, its arguments without its name, the same told apart, and where it stands; it gives
findings whose reason goes on after the command's name. tables name a check by its key in `CHECKS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from services.approvals.danger import known, paths
from services.approvals.danger.commands import Command
from services.approvals.danger.known import STRUCTURE
from services.approvals.danger.options import Options
from services.approvals.danger.paths import Finding, Ground
from services.approvals.danger.words import Word
from services.approvals.danger.wrappers import name_of, script_of

Check = Callable[[Command, Sequence[Word], Options, Ground], Iterable[Finding]]

_FROM_NET = frozenset(
    "curl wget http https httpie xh aria2c lynx w3m nc ncat netcat socat ssh scp telnet ftp dig nslookup base64 base32"
    " xxd uudecode openssl gpg gunzip zcat rev tr gh aws gsutil kubectl docker".split()
)
_LOOPBACK = re.compile(r"^(https?://)?(localhost|127\.\d+\.\d+\.\d+|\[::1\]|0\.0\.0\.0)(:\d+)?(/|\?|$)", re.IGNORECASE)
_TELLS = r"(show|list|status|get|check|-\w+|--\w[\w-]*)"


def _say(name: str) -> Finding:
    entry = STRUCTURE[name]
    return Finding(entry.level, entry.reason, entry.impact)


def _medium(reason: str, impact: str = "What it does cannot be told from here.") -> Finding:
    return Finding("medium", reason, impact)


def _high(reason: str, impact: str = "What it does cannot be told from here.") -> Finding:
    return Finding("high", reason, impact)


def _critical(reason: str, impact: str) -> Finding:
    return Finding("critical", reason, impact)


def _fed(command: Command) -> Iterator[Finding]:
    """A program that reads its program from its input."""
    if command.stdin == "pipe":
        net = any(name in _FROM_NET for name in command.upstream)
        yield _say("fed_from_net" if net else "fed")
    elif command.stdin in ("file", "text"):
        yield _high("runs a program from its input")


# the shell's own


def expression(command: Command, rest: Sequence[Word], _o: Options, _g: Ground) -> Iterator[Finding]:
    """``test -v 'a[$(x)]'``, ``printf -v``, ``[ 'a[$(x)]' -eq 0 ]``: arithmetic runs what stands in brackets."""
    if any(re.search(r"\$\(|`|\$\{", word.text) for word in rest if word.literal):
        yield _say("expression")


def shell(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    script = script_of(command.words)
    if script is not None:
        yield _medium("runs a text as commands", "What stands in the text runs as you.")
        return
    if re.search(r"(^| )--(rcfile|init-file|login|posix)|(^| )-\w*[il]", options.joined):
        yield _high("starts with files of its own")
    operand = next((word for word in options.operands if not re.fullmatch(r"[a-z]+", word.text) or len(options.operands) == 1), None)
    if operand is None or operand.text == "-" or re.search(r"(^| )-\w*s", options.joined):
        if options.joined in ("--version", "--help"):
            return
        found = list(_fed(command))
        yield from found or [_high("starts a shell that takes whatever comes")]
        return
    if not operand.literal:
        yield _high("runs a file that cannot be told")
    yield from paths.judge(operand.text, "run", ground, glob=operand.glob)
    yield from paths.judge(operand.text, "read", ground, glob=operand.glob)


def source(_c: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    """Only an environment's ``activate`` is everyday: it is low, by a form in the judge."""
    if not rest or not rest[0].literal or re.match(r"/(dev|proc)/", rest[0].text):
        yield _high("runs a file that cannot be told")


def wrapper(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """`env` alone prints the environment; what the others run is judged as a command of its own."""
    if command.name == "env" and not options.operands:
        yield _medium("prints the environment, which may hold secrets", "They stand in the agent's conversation.")
    if command.name == "env" and options.has(["S", "split-string", "C", "chdir"]):
        yield _high("runs a text as a command")


def alone(_c: Command, rest: Sequence[Word], _o: Options, _g: Ground) -> Iterator[Finding]:
    if rest:
        yield _high("is given more than it takes to tell that")


def tells(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """Programs that tell when they are given options, and change something when given a value."""
    name = command.name
    if name in ("date", "hostname", "route", "ifconfig", "mount", "swapon", "hostnamectl", "timedatectl", "localectl", "loginctl", "resolvectl", "networkctl"):  # fmt: skip
        changing = [word for word in options.operands if not re.fullmatch(r"\+.*|status|show|list.*|show-.*|query.*", word.text)]
        if (name == "date" and options.has(["set", "s"])) or (changing and not (name == "date" and options.has(["d", "r", "date", "j", "f", "v", "u"]))):
            yield _high("changes how this machine works", "Other programs may not work afterwards.")
    if name == "journalctl" and options.has(["vacuum-size", "vacuum-time", "vacuum-files", "rotate", "flush"]):
        yield _high("deletes the machine's log")
    if name == "dmesg" and options.has(["C", "c", "clear", "n", "D", "E"]):
        yield _high("empties the machine's log")
    if name == "fuser" and options.has(["k", "kill"]):
        yield _high("ends programs")
    if name in ("ps", "pgrep", "top") and re.search(r"(^| )-?[a-zA-Z]*e[a-zA-Z]*ww|\beww", options.joined):
        yield _high("shows the environment of other programs", "It may hold secrets.")
    if name == "blkid" and options.has(["g", "garbage-collect", "c", "cache-file"]):
        yield _medium("changes a cache")


# files


def writes(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    if command.name == "split" and options.has(["filter"]):
        yield _high("runs a command on every part")
    if command.name in ("ln", "link"):
        yield _medium("makes a link", "What is written through it lands elsewhere.")
    if command.name == "patch" and options.has(["d", "directory", "e", "ed", "o", "output"]):
        yield _high("changes files elsewhere")
    if command.name == "rename" and not options.joined.startswith(("-n", "-v")):
        yield _medium("renames files by a program", "The program in its argument runs.")
    if command.name in ("cp", "mv") and options.has(["t", "target-directory"]):
        target = re.search(r"(?:-t ?|--target-directory[= ])(\S+)", options.joined)
        if target:
            yield from paths.judge(target[1], "write", _g)


def second_is_output(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for word in options.operands[1:]:
        yield from paths.judge(word.text, "write", ground, glob=word.glob)
    if options.has(["r", "revert"]) and _c.name == "xxd" and len(options.operands) > 1:
        yield _medium("writes a file")


def find(command: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    roots = True
    position = 0
    while position < len(rest):
        text = rest[position].text
        if roots and (text.startswith("-") and text not in ("-H", "-L", "-P", "--") or text in ("(", "!", "\\(")):
            roots = False
        if roots:
            if not text.startswith("-"):
                deletes = any(word.text == "-delete" for word in rest)
                mode: known.Mode = "delete" if deletes else "list"
                yield from paths.judge(text, mode, ground, glob=rest[position].glob, tree=True)
        elif text == "-delete":
            yield _high("deletes what it finds", "What is deleted is gone; what git does not have is gone for good.")
        elif text in ("-exec", "-execdir", "-ok", "-okdir"):
            yield _medium("runs a command on what it finds", "What it acts on is known only when it runs.")
            if position + 1 < len(rest) and name_of(rest[position + 1].text) in ("rm", "shred", "unlink", "mv", "chmod", "chown", "dd", "tee", "truncate", "sh", "bash", "zsh", "perl", "python", "python3", "sed", "cp", "ln", "curl"):  # fmt: skip
                yield _high("changes everything that it finds", "What it acts on is known only when it runs.")
        elif text in ("-fprint", "-fprint0", "-fprintf", "-fls", "-files0-from"):
            yield _medium("writes a file")
            if position + 1 < len(rest):
                yield from paths.judge(rest[position + 1].text, "write", ground)
        elif text in ("-newer", "-samefile", "-anewer", "-cnewer"):
            position += 1
        position += 1


def tar(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    text = options.joined
    bundled = re.match(r"[a-zA-Z]+", text)  # `tar xPf a.tar`, without a dash
    if bundled and "P" in bundled[0]:
        yield _high("unpacks wherever the archive says")
    if options.has(["checkpoint-action", "to-command", "use-compress-program", "I", "info-script", "new-volume-script", "rsh-command", "rmt-command"]) or re.search(r"(^| )-?\w*[IF]\w*( |$)|--(to-c|use-c|check|info-s|new-vol|rsh|rmt)", text):  # fmt: skip
        yield _high("runs another program", "That program runs as you.")
    if options.has(["remove-files", "absolute-names", "P", "overwrite", "recursive-unlink", "unlink-first", "C", "directory"]):
        yield _high("unpacks elsewhere, or deletes what it packed") if not re.search(r"(-C|--directory)[ =]?(\.?/?[\w-]+)", text) or options.has(["remove-files", "P", "absolute-names", "recursive-unlink"]) else _medium("unpacks files")
    if re.search(r"(^| )[\w.-]+@?[\w.-]*:\S", text) and not options.has(["force-local"]):
        yield _high("reads or writes on another machine")


def editor(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    if options.joined in ("--version", "--help", "-v"):
        return
    if re.search(r"(^| )(-[a-zA-Z]*[cSsueEW]|\+|--cmd|--eval|--funcall|--load|--batch|--headless|--script|-l |-nes|--install-extension|-q)", options.joined) or command.name in ("ed", "ex") or command.stdin:  # fmt: skip
        yield _high("runs a text of its own", "Editors can run any command.")


def dd(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for word in rest:
        key, _, value = word.text.partition("=")
        if key == "of":
            yield from paths.judge(value, "write", ground)
            if value.startswith("/dev/") and value not in ("/dev/null",):
                yield _critical("writes over a disk", "Everything on it is lost.")
        elif key == "if":
            yield from paths.judge(value, "read", ground)


# little languages

_SED_ADDRESS = r"(?:\d+|\$|/(?:[^/\\\n]|\\.)*/I?|\\(.)(?:(?!\1).)*\1)(?:~\d+)?"
_SED_COMMAND = re.compile(
    r"\s*(?:(?:\d+|\$|/(?:[^/\\\n]|\\.)*/I?)(?:~\d+)?\s*(?:,\s*(?:[+~]?\d+|\$|/(?:[^/\\\n]|\\.)*/I?))?\s*)?!?\s*"
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
                yield _high("runs a text that cannot be read here")
        elif re.fullmatch(r"-[nErsuz]+|--(quiet|silent|regexp-extended|null-data|separate|unbuffered|posix|sandbox|debug|version|help)", text):  # fmt: skip
            pass
        elif text.startswith("-") and len(text) > 1:
            yield _high("takes its commands from elsewhere")
        elif not given and not scripts:
            scripts.append(words[position])
        elif not (in_place and text == ""):
            files.append(words[position])
        position += 1
    for script in scripts:
        if not _harmless_sed(script.text):
            yield _high("runs a sed command that can write files or run programs")
    for word in files:
        yield from paths.judge(word.text, "write" if in_place else "read", ground, glob=word.glob)
    if in_place:
        yield _medium("changes files", "What stood there before is replaced.")


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
        elif not re.match(r"-F.|-v.|--(field-separator|assign)=|--(version|posix|traditional|re-interval|csv)$", text):
            yield _high("takes its program from elsewhere")
        position += 1
    if position < len(words):
        program = words[position].text
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', program)
        bare = re.sub(r"/(?:[^/\\\n]|\\.)+/", " ", bare) if "system" not in bare else bare
        if re.search(r"system|getline|@|/inet|\bENVIRON\b|fflush|close", program):
            yield _high("can run programs or read other files", "What stands in its program runs as you.")
        elif "|" in bare.replace("||", "") or re.search(r"print[^;}\n]*>", bare):
            yield _high("writes files or runs programs from its program")
    for word in words[position + 1 :]:
        yield from paths.judge(word.text, "read", ground, glob=word.glob)


_CODE_HIGH = re.compile(
    r"rmtree|\brm(Sync|dir|Dir)?\b|require\(|\bimport (os|shutil|sys|pty|glob|pathlib|tempfile)|unlink|remove|rmdir|system|popen|subprocess|spawn|exec|eval|compile|__import__|importlib|getattr|fork|kill"
    r"|socket|urllib|requests|httpx|http\.|https?:|fetch\(|open\(.*['\"][wax+]|write|truncate|chmod|chown|rename|replace\("
    r"|shutil|ctypes|pickle|marshal|codecs|b64|base64|fromCharCode|chr\(|\\x|child_process|fs\.|Deno|Bun|`|qx|%x|"
    r"File\.|FileUtils|IO\.|Dir\.|Kernel|environ|process\.env|ENV|getenv|ptrace|setuid|do shell script|os\.",
    re.IGNORECASE,
)  # fmt: skip
_INLINE: dict[str, str] = {
    "python": "c", "pypy": "c", "ipython": "c", "jython": "c", "micropython": "c", "node": "ep", "nodejs": "ep",
    "ts-node": "ep", "tsx": "ep", "perl": "eE", "ruby": "e", "jruby": "e", "irb": "e", "php": "rBRE", "lua": "e",
    "luajit": "e", "Rscript": "e", "R": "e", "guile": "c", "racket": "e", "ghci": "e", "runghc": "e", "erl": "",
    "elixir": "e", "iex": "e", "scala": "e", "osascript": "e", "julia": "eE", "qjs": "e", "d8": "e", "babel-node": "ep",
    "gjs": "c", "sbcl": "", "ocaml": "e", "octave": "", "swipl": "g", "pry": "e", "tclsh": "", "bpython": "c",
}  # fmt: skip
_VALUES: dict[str, str] = {"python": "WX", "pypy": "WX", "ruby": "IrCEK", "perl": "", "node": "", "php": "dcS", "lua": "l"}
_LOADS = re.compile(
    r"(^| )(-r|-I|-M|-m[A-Z]|--(require|import|loader|experimental-loader|env-file|inspect\S*|eval|print|input-type|preload"
    r"|require-module|interpreter|exec|run|init|rcfile|check-hash-based-pycs|allow-\S+|e|p))( |=|\w|$)"
)
_SERVERS = frozenset("gunicorn uvicorn hypercorn flask fastapi daphne waitress-serve streamlit jupyter celery nodemon".split())
_MODULES = frozenset(
    "pytest unittest json.tool venv timeit compileall doctest cProfile pstats tokenize dis ast this calendar platform site"
    " sysconfig tabnanny py_compile trace pdb build".split()
)


def interpreter(command: Command, rest: Sequence[Word], _o: Options, ground: Ground) -> Iterator[Finding]:
    name = re.sub(r"[\d.]+$", "", command.name) or command.name
    words = list(rest)
    inline = _INLINE.get(name, "ec")
    values = _VALUES.get(name, "")
    joined = " ".join(word.text for word in words)
    if command.name in _SERVERS or command.name in ("alembic", "django-admin", "manage.py", "pm2", "forever", "locust", "papermill"):
        yield from _managed(command.name, joined)
        return
    if name not in ("python", "pypy") and _LOADS.search(joined):
        yield _medium("loads other code, or runs a text")
    position = 0
    while position < len(words):
        text = words[position].text
        if text == "-" or not text.startswith("-"):
            break
        if text in ("--version", "-V", "--help", "-VV") and len(words) == 1:
            return
        if text in ("--eval", "--print", "--run", "-r") or (not text.startswith("--") and set(text[1:]) & set(inline)) or text == "-eval":
            attached = re.sub(r"^-[a-zA-Z]", "", text) if len(text) > 2 and text[1] in inline else ""
            code = attached + " ".join(word.text for word in words[position + 1 :])
            if _CODE_HIGH.search(code):
                yield _high("runs a text as a program, which can change files or reach the network", "It runs as you.")
            else:
                yield _medium("runs a text as a program", "It runs as you.")
            return
        if name in ("python", "pypy") and re.match(r"-[a-zA-Z]*m", text):
            module = re.sub(r"^-[a-zA-Z]*?m", "", text) or (words[position + 1].text if position + 1 < len(words) else "")
            yield from _module(module, words[position + 2 :])
            return
        if not text.startswith("--") and text[1] in values and len(text) == 2:
            position += 1
        elif name == "perl" and re.search(r"[npi]", text):
            yield _high("changes files by a text")
        elif text.startswith("--") and name in ("python", "pypy"):
            yield _medium("is started in another way")
        position += 1
    if position >= len(words) or words[position].text in ("-", "/dev/stdin"):
        if command.name in ("python", "python3", "node", "irb", "ipython") and not command.stdin and not words:
            yield _medium("starts and waits for what comes")
            return
        found = list(_fed(command))
        yield from found or [_medium("starts and waits for what comes")]
        return
    program = words[position]
    if not program.literal:
        yield _high("runs a file that cannot be told")
    yield from paths.judge(program.text, "run", ground, glob=program.glob)
    yield from paths.judge(program.text, "read", ground, glob=program.glob)
    if "://" in program.text or re.fullmatch(r"[a-z]+:.*", program.text):
        yield _high("runs a program from the network")
    yield from _managed(name_of(program.text), " ".join(word.text for word in words[position + 1 :]))
    for word in words[position + 1 :]:
        yield from paths.judge(word.text.partition("=")[2] or word.text, "none", ground, glob=word.glob)


def _managed(program: str, joined: str) -> Iterator[Finding]:
    """Programs of frameworks that can drop a database, as everybody knows them."""
    if re.search(r"\b(flush|sqlflush|reset_db|drop\w*|downgrade|destroy|db:drop|db:reset|wipe|delete_all|purge|loaddata|killall|delete)\b", joined):  # fmt: skip
        yield _critical("drops what a database holds", "It is gone for good, unless somebody has a backup.")
    elif re.search(r"\b(shell\w*|dbshell|migrate|upgrade|createsuperuser|changepassword|deploy|publish|upload|release|sendtestemail|dumpdata)\b", joined):  # fmt: skip
        yield _medium("changes a database, or more than the project")
    elif program in _SERVERS and re.search(r"0\.0\.0\.0|--host[= ](?!127|localhost)|--reload-dir|--config", joined):
        yield _medium("opens this machine to others")
    elif program == "setup.py" and re.search(r"\b(install|develop|upload|register|easy_install|bdist\w*|sdist)\b", joined):
        yield _medium("installs or publishes a package")
    if program in ("pm2", "forever"):
        yield _medium("keeps a program running")


def _module(module: str, rest: Sequence[Word]) -> Iterator[Finding]:
    if module in _MODULES:
        joined = " ".join(word.text for word in rest)
        if module in ("timeit", "trace", "pdb", "cProfile") and (_CODE_HIGH.search(joined) or module == "pdb"):
            yield _high("runs a text as a program")
        return
    if module in known.NAMES or re.fullmatch(r"(src|app|tests?|scripts?|tools?|examples?|services?)(\.\w+)*|[a-z_]\w*(\.[a-z_]\w*)+|[a-z_]+_[a-z_]+", module):  # fmt: skip
        if module.partition(".")[0] in ("http", "ftplib", "smtpd", "smtplib", "xmlrpc", "telnetlib", "zipapp", "zipfile", "tarfile", "shutil", "pip", "ensurepip", "idlelib", "code", "asyncio", "webbrowser", "antigravity", "base64", "sqlite3", "lib2to3", "pydoc", "os", "runpy", "ctypes", "pickle", "pickletools", "distutils", "concurrent", "multiprocessing", "urllib", "socketserver", "cgi", "wsgiref", "email", "logging"):  # fmt: skip
            yield _medium("runs a module that does more than compute")
        return
    yield _medium("runs a module that Pointsman does not know")


def runner(_c: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """npx and the like: low for the tools that a project's packages hold, by name."""
    words = [word.text for word in rest]
    while words and words[0] in ("-y", "--yes", "--no", "--no-install", "-q", "--quiet", "--", "--prefer-offline"):
        words.pop(0)
    if not words:
        yield _high("downloads and runs a program")
        return
    tool = re.sub(r"@(latest|[\d.^~x]+)$", "", words[0])
    if tool not in known.TOOLS:
        yield _high("downloads and runs a program that Pointsman does not know", "Foreign code runs as you at once.")
    elif tool != words[0]:
        yield _medium("downloads and runs a program", "Foreign code runs as you at once.")


# building

_TARGET_HIGH = re.compile(
    r"(^|[:_/-])(deploy\w*|publish\w*|release\w*|install|uninstall|destroy\w*|drop|nuke|purge|wipe|prod|production|push|upload|"
    r"ship|rollback|reset|teardown|distclean|mrproper|apply|provision|terraform|seed|migrate|prune|delete\w*|remove\w*|flash|"
    r"submit|promote|format-disk|clobber|expunge|obliterate)([:_/-]|$)"
)


def targets(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    """Whose target is called deploy deploys: the contents of the project's files are not read."""
    name = command.name
    if name in ("npm", "pnpm", "yarn", "composer", "bundle", "brew", "pod", "mix", "dotnet", "opam", "cabal", "stack") and command.argv[1:2] in (("install",), ("i",)):  # fmt: skip
        return
    for word in options.operands:
        found = _TARGET_HIGH.search(word.text)
        if found and "." not in word.text.rpartition("/")[2][-4:]:
            critical = re.search(r"destroy|drop|nuke|purge|wipe|teardown|db:reset|obliterate", word.text)
            if critical:
                yield _critical(f"runs the target {word.text[:40]!r}", "By its name it destroys something for good.")
            else:
                yield _high(f"runs the target {word.text[:40]!r}", "By its name it reaches beyond the project.")
    if name in ("make", "gmake") and command.stdin and re.search(r"-f ?-", options.joined):
        yield from _fed(command)
    if options.has(["eval", "E"]) and name in ("make", "gmake"):
        yield _high("runs a text of its own")


# git


def git_read(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    if command_paths := [word for word in options.operands if ":" in word.text]:
        for word in command_paths:
            yield from paths.judge(word.text.rpartition(":")[2], "none", ground)


def git_add(_c: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for word in options.operands:
        for finding in paths.judge(word.text, "none", ground, glob=word.glob):
            if finding.level in ("high", "critical"):
                yield Finding(finding.level, "takes secrets or settings into a commit", "Once pushed, they are known.")
    if options.has(["f", "force", "i", "e", "edit"]):
        yield _medium("takes files into the commit that git was told to ignore")


def git_checkout(command: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    texts = [word.text for word in rest]
    lost = "changes that are not committed are thrown away"
    if "--" in texts and texts[-1] != "--" or "." in texts or any(re.search(r"^\./|/$|\*|^:", text) for text in texts):
        yield _high(f"takes files from a commit: {lost}", "They are gone for good.")
    names = [word.text for word in options.operands]
    if len(names) > 1 and not options.has(["b", "c", "B", "C", "create", "orphan", "t", "track"]):
        yield _high(f"takes files from a commit: {lost}", "They are gone for good.")
    elif names and re.search(r"\.[A-Za-z]{1,5}$", names[0]) and not re.match(r"(v?\d|release|hotfix|feature|fix)", names[0]):
        yield _high(f"may take a file from the last commit: {lost}", "They are gone for good.")


def git_remote(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    for word in rest:
        text = word.text
        if re.search(r"^(\w+::|-{0,2}[\w-]*=?\w+::)|^ext::", text):
            yield _critical("gets commits by running a program", "That program runs as you.")
        elif re.search(r"://|^[\w.-]+@[\w.-]+:|^(/|\.\.|~)", text) and command.argv[1:2] != ("clone",):
            yield _high("speaks to another server than the repository's own", "What is sent there cannot be taken back.")
    operands = [word.text for word in options.operands]
    if "stdin" in options.joined and command.stdin:
        yield _medium("takes names from elsewhere")
    if command.argv[1:2] == ("worktree",) and "--force" in options.joined and "remove" in operands:
        yield _high("removes a working tree with its changes", "They are gone for good.")


_GIT_KEYS = re.compile(
    r"(^|\.)(pager|editor|hookspath|sshcommand|fsmonitor|askpass|gitproxy|attributesfile|excludesfile|external|textconv|command"
    r"|clean|smudge|process|helper|program|cmd|path|insteadof|pushinsteadof|uploadpack|receivepack|proxy|sslverify|sendemail"
    r"|allow|driver|worktree|url|update|browser|templatedir|safe|directory)$|^(alias|include|includeif|filter|credential|protocol"
    r"|http|url|pager|difftool|mergetool|browser|man|gpg|submodule|uploadpack|safe|core\.bare)\b",
    re.IGNORECASE,
)


def git_config(_c: Command, rest: Sequence[Word], options: Options, _g: Ground) -> Iterator[Finding]:
    for word in options.operands:
        if _GIT_KEYS.search(word.text.partition("=")[0]):
            yield _high("sets what programs git runs, or whom it trusts", "The next git command runs them, unasked.")


# network, containers, clouds, databases


def fetch(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    text = options.joined
    urls = [word.text for word in options.operands if "://" in word.text or _LOOPBACK.match(word.text) or "." in word.text]
    sends = options.has(["data", "data-raw", "data-binary", "data-ascii", "data-urlencode", "json", "form", "form-string", "upload-file", "post-data", "post-file", "body-data", "body-file", "method", "request"]) or re.search(r"(^| )-[a-zA-Z]*[dFTX]", text)  # fmt: skip
    if re.search(r"(^| )(-X|--request|--method)[ =]?(DELETE|PUT|PATCH)|(^| )(delete|put|patch) https?", text, re.IGNORECASE):
        yield _high("changes or deletes what a server holds", "It may be gone for good.")
        if re.search(r"DELETE", text):
            yield _critical("deletes what a server holds", "It may be gone for good.")
    elif sends and not (re.search(r"-X ?(GET|HEAD)|--request[= ](GET|HEAD)", text) and not re.search(r"--data|(^| )-[dFT]", text)):
        yield _high("sends data over the network", "What is sent cannot be taken back.")
    if re.search(r"(^| )(-K|--config|--unix-socket|--abstract-unix-socket|--proxy|-x |--socks\S*|--use-askpass|--post-file|--input-file|-i |--execute|-e |--netrc\S*|-n |--cert|-E |--key|-u |--user[ =]|--next|--libcurl|--engine|--doh-url|--resolve|--connect-to|--mirror|-r |--recursive|--insecure|-k )", text + " "):  # fmt: skip
        yield _high("talks to the network in a way of its own")
    if re.search(r"(^|=|@| )file:|@[/~.\w-]|\bscp:|\bsmb:|\bgopher:|\bdict:|\btelnet:|\bldap:", re.sub(r"\S+@\S+\.\w+", "", text) if "@" in text and not re.search(r"[ =]@", text) else text):  # fmt: skip
        yield _high("reads a file of this machine", "What is sent cannot be taken back.")
    if re.search(r"(^| )-[a-zA-Z]*[OJ]( |$)|--remote-name", text) or command.name in ("wget", "aria2c", "axel", "yt-dlp"):
        yield _medium("downloads a file", "What comes may replace a file of the same name.")
    if "169.254.169.254" in text or "metadata.google" in text:
        yield _critical("asks for this machine's cloud access", "Whoever has it acts there as you.")
    if re.search(r"api\.telegram|webhook|ngrok|requestbin|pastebin|transfer\.sh|0x0\.st|burpcollab|interact\.sh|oast", text):
        yield _high("speaks to a place where data is dropped", "What is sent cannot be taken back.")
    del urls


def local_only(command: Command, options: Options) -> bool:
    """``curl -s http://localhost:8000/health``: nothing is sent, nothing leaves this machine."""
    if command.name not in ("curl", "http", "xh") or not options.operands:
        return False
    if not all(_LOOPBACK.match(word.text) and word.literal for word in options.operands):
        return False
    return re.fullmatch(r"(-[sSfiIvLG#]+ ?|--(silent|show-error|fail|include|head|verbose|location|max-time[ =]?\d+|compressed) ?|-m \d+ ?|-H [\w-]+: ?[\w/.+*-]+ ?|-o /dev/null ?|-w [^ @]+ ?|\S*(localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0)\S* ?)+", options.joined) is not None  # fmt: skip


def docker(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    joined = options.joined
    mounts = re.findall(r"(?:-v|--volume|source=|src=|--env-file|--secret\S*src=)[ =]?([^\s:,]+)", joined)
    for mount in mounts:
        yield from paths.judge(mount, "write" if "/" in mount else "none", ground)
    if re.search(r"(^| )(-H|--host|--context|-c)[ =]", " ".join(command.argv[1:4])) and "compose" not in command.argv:
        yield _high("acts on another machine")


_SQL_CRITICAL = re.compile(
    r"\b(drop|truncate|delete\s+from|flushall|flushdb|dropdatabase|deletemany|remove\(|drop\(|shutdown|revoke|detach|"
    r"del\b|unlink\b|purge|delete_all|secrets\s+disable|debug\s+(segfault|reload)|config\s+set|slaveof|replicaof|script\s+flush|"
    r"delete_queue|delete|reset|forget_cluster_node|kv\s+delete|operator\s+seal)",
    re.IGNORECASE,
)
_SQL_HIGH = re.compile(
    r"\b(update|insert|alter|create|grant|copy|merge|upsert|call|do|exec\w*|xp_\w+|load_file|into\s+(out|dump)file|load_extension|"
    r"attach|vacuum|pg_read_file|lo_import|lo_export|writefile|readfile|edit|set|eval|insertone|insertmany|updatemany|write|put|"
    r"unseal|policy|token|module|migrate|config|restore|import)\b|\\!|\\copy|\\o|\\w|\\i|^\.|['\"]?\.(shell|system|import|output|once|load|"
    r"read|restore|save|open|log|excel)\b|!",
    re.IGNORECASE,
)


def sql(command: Command, rest: Sequence[Word], options: Options, ground: Ground) -> Iterator[Finding]:
    text = " ".join([options.joined, command.fed or ""])
    if _SQL_CRITICAL.search(text):
        yield _critical("deletes what a database holds", "It is gone for good, unless somebody has a backup.")
    elif _SQL_HIGH.search(text):
        yield _high("changes what a database holds, or runs a program", "It may not be undone.")
    if command.stdin in ("pipe", "file"):
        yield _high("runs statements that come from elsewhere")
    if re.search(r"(^| )(-f|--file|-i|--init|--init-command|--script|--eval|-o|--output|-L|--load\S*|--plugin-dir)[ =]?", options.joined):
        yield _high("runs statements from a file, or writes one")


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        expression, shell, source, wrapper, alone, tells, writes, second_is_output, find, tar, editor, dd, sed, awk,
        interpreter, runner, targets, git_read, git_add, git_checkout, git_remote, git_config, fetch, docker, sql,
    )
}  # fmt: skip
"""By the name that the tables use."""
