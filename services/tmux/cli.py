"""tmux's command lines and what it prints, as pure functions; `shell.py` runs them.

Our server reads no configuration of the user (``-f /dev/null``): a stray ``default-command`` or plug-in must
not come between an agent and us. Each Pointsman session is one tmux session with one window and one pane,
marked with the user options ``@pointsman_uid`` and ``@pointsman_process``; windows without the mark are the
user's own and left alone. A tmux server without sessions ends by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from services.tmux.model import Pane

HISTORY_LINES = 5000  # per pane, about 1 MB at most: the conversation itself is kept by ingest
COLUMNS, LINES = (
    80,
    40,
)  # until somebody attaches; what a bridge printed wider would break in a smaller terminal
SCREEN_COLUMNS = 120  # of a program that draws itself anew at each size
INSTALL = "install it: `sudo apt install tmux` (macOS: `brew install tmux`), then try again"

_FORMAT = "|".join(
    f"#{{{name}}}"
    for name in (
        "pane_id",
        "session_id",
        "@pointsman_uid",
        "@pointsman_process",
        "pane_dead",
        "pane_dead_status",
    )
)
_LINE = re.compile(r"^(%\d+)\|(\$\d+)\|([0-9A-Za-z]*)\|(\d*)\|([01]?)\|(-?\d*)$")
_NO_SERVER = ("no server running", "error connecting to", "no sessions", "server exited", "lost server")


def base(socket: Path | None) -> list[str]:
    """The start of every command line; ``socket`` None: the default home's own server."""
    return ["tmux", "-f", "/dev/null", *(["-L", "pointsman"] if socket is None else ["-S", str(socket)])]


def version(socket: Path | None) -> list[str]:
    return [*base(socket), "-V"]


def list_panes(socket: Path | None) -> list[str]:
    return [*base(socket), "list-panes", "-a", "-F", _FORMAT]


def parse_panes(output: str) -> list[Pane]:
    """The panes that carry our mark; anything else in the output is passed over."""
    panes = []
    for line in output.splitlines():
        found = _LINE.match(line)
        if found and found[3] and found[4]:
            status = int(found[6]) if found[6] else None
            panes.append(Pane(found[1], found[2], found[3], int(found[4]), found[5] == "1", status))
    return panes


def says_no_server(error: str) -> bool:
    """Whether a failure only means that no server runs, and so no window."""
    return any(text in error for text in _NO_SERVER)


def new_window(
    socket: Path | None,
    *,
    name: str,
    uid: str,
    process: int,
    cwd: str,
    program: Sequence[str],
    columns: int = COLUMNS,
) -> list[str]:
    """Start the server if need be, and a marked session in it, all in one go."""
    return [
        *base(socket),
        "start-server", ";", *_options(), ";",
        "new-session", "-d", "-P", "-F", "#{pane_id}", "-s", name, "-n", name, "-c", _literal(cwd),
        "-x", str(columns), "-y", str(LINES), "--", *map(_literal, program), ";",
        *_mark(f"={name}:", uid, process),
    ]  # fmt: skip


def respawn(
    socket: Path | None, *, pane: str, uid: str, process: int, cwd: str, program: Sequence[str]
) -> list[str]:
    """Run the program anew in a pane, whether the old one is dead or not."""
    return [
        *base(socket),
        "respawn-pane", "-k", "-t", pane, "-c", _literal(cwd), "--", *map(_literal, program), ";",
        *_mark(pane, uid, process),
    ]  # fmt: skip


def kill_window(socket: Path | None, window_session: str) -> list[str]:
    return [*base(socket), "kill-session", "-t", window_session]


def capture(socket: Path | None, pane: str) -> list[str]:
    """The screen as text."""
    return [*base(socket), "capture-pane", "-p", "-t", pane]


def paste(socket: Path | None, pane: str, buffer: str) -> list[list[str]]:
    """Command lines that paste what the first is given on stdin, as one (bracketed) paste."""
    return [
        [*base(socket), "load-buffer", "-b", buffer, "-"],
        [*base(socket), "paste-buffer", "-p", "-d", "-b", buffer, "-t", pane],
    ]


def press(socket: Path | None, pane: str, key: str) -> list[str]:
    return [*base(socket), "send-keys", "-t", pane, key]


def set_hints(socket: Path | None, hints: Mapping[str, str]) -> list[str]:
    """Show each pane's hint (pane id → text) in its status line."""
    words = list(base(socket))
    for number, (pane, text) in enumerate(hints.items()):
        words += [
            *([";"] if number else []),
            "set-option",
            "-p",
            "-t",
            pane,
            "@pointsman_hint",
            _literal(text),
        ]
    return words


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the tmux server sees and keeps: no secret of the user may stand in it."""
    wanted = {"PATH", "HOME", "LANG", "TERM", "USER", "LOGNAME", "SHELL", "TMUX_TMPDIR", "TMPDIR", "TZ"}
    kept = {name: value for name, value in environ.items() if name in wanted or name.startswith("LC_")}
    kept.setdefault("TERM", "xterm-256color")
    if not any(name in kept for name in ("LANG", "LC_ALL", "LC_CTYPE")):
        kept["LC_CTYPE"] = "C.UTF-8"  # else tmux draws every umlaut as an underscore
    return kept


def _options() -> Iterable[str]:
    settings = {
        "remain-on-exit": "on",
        "history-limit": str(HISTORY_LINES),
        "default-terminal": "screen-256color",
        "mouse": "on",
        "set-titles": "on",
        "set-titles-string": "#{session_name} #{@pointsman_hint}",
        "status-left": " #{session_name}  ",
        "status-left-length": "70",
        "status-right": " #{@pointsman_hint}   leave with #{prefix} d ",
        "status-right-length": "60",
        "window-status-format": "",
        "window-status-current-format": "",
        "automatic-rename": "off",
        "allow-rename": "off",
    }
    words: list[str] = []
    for name, value in settings.items():
        words += [*([";"] if words else []), "set-option", "-g", name, value]
    return words


def _mark(target: str, uid: str, process: int) -> list[str]:
    return [
        "set-option", "-p", "-t", target, "@pointsman_uid", uid, ";",
        "set-option", "-p", "-t", target, "@pointsman_process", str(process),
    ]  # fmt: skip


def _literal(word: str) -> str:
    """tmux takes a trailing semicolon as the end of its command."""
    return word[:-1] + "\\;" if word.endswith(";") else word
