"""tmux's command lines and output, as text."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from services.tmux import cli
from services.tmux.model import Pane

SOCKET = Path("/home/me/tmux.sock")


def test_which_server() -> None:
    assert cli.base(None) == ["tmux", "-f", "/dev/null", "-L", "pointsman"]
    assert cli.base(SOCKET) == ["tmux", "-f", "/dev/null", "-S", str(SOCKET)]


def test_panes() -> None:
    """Ours alone, dead ones with their exit code; a pane ended by a signal has none."""
    output = "%0|$0|01ABC|1|0|\n%1|$1||||\n%2|$2|01ABD|3|1|70\n%3|$3|01ABE|2|1|\nrubbish\n"
    assert cli.parse_panes(output) == [
        Pane("%0", "$0", "01ABC", 1, False, None),
        Pane("%2", "$2", "01ABD", 3, True, 70),
        Pane("%3", "$3", "01ABE", 2, True, None),
    ]


@given(st.text())
def test_any_output_can_be_read(output: str) -> None:
    cli.parse_panes(output)


def test_a_new_window_is_marked_in_the_same_breath() -> None:
    """Server, options, window and marks in one command: nothing of ours can be left without a mark."""
    words = cli.new_window(SOCKET, name="demo", uid="01ABC", process=2, cwd="/work;", program=["run", "a;"])
    assert words[5:6] == ["start-server"]
    assert words[words.index("new-session") :] == [
        "new-session", "-d", "-P", "-F", "#{pane_id}", "-s", "demo", "-n", "demo", "-c", "/work\\;",
        "-x", "80", "-y", "40", "--", "run", "a\\;", ";",
        "set-option", "-p", "-t", "=demo:", "@pointsman_uid", "01ABC", ";",
        "set-option", "-p", "-t", "=demo:", "@pointsman_process", "2",
    ]  # fmt: skip
    assert f"history-limit {cli.HISTORY_LINES}" in " ".join(words)


def test_no_server_is_no_error() -> None:
    assert cli.says_no_server("no server running on /tmp/tmux-0/pointsman")
    assert cli.says_no_server("error connecting to /x/tmux.sock (No such file or directory)")
    assert not cli.says_no_server("open terminal failed: not a terminal")


def test_what_the_server_sees() -> None:
    seen = cli.child_environment({"PATH": "/bin", "ANTHROPIC_API_KEY": "secret", "LC_TIME": "de_DE"})
    assert seen == {"PATH": "/bin", "LC_TIME": "de_DE", "LC_CTYPE": "C.UTF-8", "TERM": "xterm-256color"}
