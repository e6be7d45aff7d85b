"""Every command in a shell text is found, and a text is whole only if nothing else can come out of it."""

from __future__ import annotations

import pytest

from services.approvals.danger.commands import Shell, read
from services.approvals.world import sight

SIGHT = sight(deadline_s=30.0)


def shell(text: str) -> Shell:
    return read(text, SIGHT, "/work/app")


def found(text: str) -> list[str]:
    return [str(command) for command in shell(text).commands]


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("ls | rm x", "rm x"),
        ("ls && rm x || true; rm y &", "rm y"),
        ("echo $(rm x)", "rm x"),
        ("echo `rm x`", "rm x"),
        ('echo "a $(rm x) b"', "rm x"),
        ("cat <(rm x)", "rm x"),
        ("f() { rm x; }; f", "rm x"),
        ("if true; then rm x; fi", "rm x"),
        ("while rm x; do :; done", "rm x"),
        ("for a in $(rm x); do :; done", "rm x"),
        ("case $(rm x) in a) ;; esac", "rm x"),
        ("case a in a) rm x;; esac", "rm x"),
        ("( { rm x; } )", "rm x"),
        ("A=$(rm x)", "rm x"),
        ("A=(1 $(rm x))", "rm x"),
        ("echo ${A:-$(rm x)}", "rm x"),
        ("echo $((1 + $(rm x)))", "rm x"),
        ("[[ -n $(rm x) ]]", "rm x"),
        ("export A=$(rm x)", "rm x"),
        ("cat <<E\n$(rm x)\nE", "rm x"),
        ("bash <<'E'\nrm x\nE", "rm x"),
        ("bash <<< 'rm x'", "rm x"),
        ("! rm x", "rm x"),
        ("time rm x", "rm x"),
        ("coproc rm x", "rm x"),
        ("r\\\nm x", "rm x"),
        ("\\rm x", "rm x"),
        ("'r'm \"x\"", "rm x"),
        ("$'\\x72m' x", "rm x"),
        ("A=rm; $A x", "rm x"),
        ("A='rm x'; $A", "rm x"),
        ("${A:-rm} x", "rm x"),
        ("$(echo rm) x", "rm x"),
        ("sudo -u root rm x", "rm x"),
        ("env -i A=1 rm x", "rm x"),
        ("nice -n 5 timeout -s KILL 5 rm x", "rm x"),
        ("nohup command rm x", "rm x"),
        ("sh -c 'rm x'", "rm x"),
        ("bash -lc 'ls; rm x'", "rm x"),
        ("bash -o pipefail -c 'rm x'", "rm x"),
        ("eval 'rm x'", "rm x"),
        ("eval 'sh -c \"rm x\"'", "rm x"),
        ("ssh host 'rm x'", "rm x"),
        ("ssh host rm x", "rm x"),
        ("ls | xargs -I{} rm x", "rm x"),
        ("trap 'rm x' EXIT", "rm x"),
        ("env -S 'rm x'", "rm x"),
    ],
)
def test_no_command_hides(text: str, hidden: str) -> None:
    assert hidden in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "ls -la",
        "cd a && pytest -q 'x y' | tail -3",
        "FOO=1 ls",
        "timeout 5 ls",
        "git commit -m \"$(cat <<'E'\nrm -rf /\nE\n)\"",
        "for a in 1 2; do ls; done",
        "git show HEAD@{1}",
    ],
)
def test_plain_texts_are_whole(text: str) -> None:
    assert shell(text).whole


NOT_WHOLE = r"""
ls $A
$A
ls *
ls {a,b}
ls {1..3}
ls {a,{b,c}}
ls $'a'
ls $"a"
ls @(a)
ls ~root
ls `x`
ls <(x)
ls $((1))
eval ls
sh -c ls
sudo ls
f() { ls; }
ls; (
ls | xargs ls
cat <<< $A
A=(1)
[[ a -eq b ]]
bash <<< ls
ssh host ls
"""


@pytest.mark.parametrize("text", NOT_WHOLE.split("\n")[1:-1])
def test_what_is_not_plain_text_is_never_whole(text: str) -> None:
    assert not shell(text).whole
