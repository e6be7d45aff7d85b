"""No disguise makes a dangerous command look harmless, and no text is too strange to be judged."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bus.messages import level_rank
from services.approvals.danger import assess, judge
from services.approvals.danger.paths import Ground
from services.approvals.danger.sight import Sight, Unparsed
from services.approvals.reading import parse
from tests.services.approvals.danger.support import CWD, SIGHT, assessed, level
from tests.services.approvals.danger.test_corpora import DANGEROUS
from tests.services.approvals.support import HOME

Disguise = Callable[[str], str]

DISGUISES: tuple[Disguise, ...] = (
    lambda c: f"ls && {c}",
    lambda c: f"{c}\ntrue",
    lambda c: f"ls\n{c}",
    lambda c: f"{{ {c}\n}}",
    lambda c: f"( {c}\n)",
    lambda c: f"if true; then {c}\nfi",
    lambda c: f"while true; do {c}\ndone",
    lambda c: f"case x in x) {c}\n;; esac",
    lambda c: f"f() {{ {c}\n}}; f",
    lambda c: f'echo "$({c}\n)"',
    lambda c: f"cat <({c}\n)",
    lambda c: f"X=$({c}\n)",
    lambda c: f"cat <<EOF\n$({c}\n)\nEOF",
    lambda c: f"bash -c {shlex.quote(c)}",
    lambda c: f"sh -ec {shlex.quote(c)}",
    lambda c: f"eval {shlex.quote(c)}",
    lambda c: f"trap {shlex.quote(c)} EXIT",
    lambda c: f"sudo sh -c {shlex.quote(c)}",
    lambda c: f"env A=1 nice timeout 5 bash -c {shlex.quote(c)}",
    lambda c: f"nohup bash -lc {shlex.quote(c)} &",
    lambda c: f"ls | xargs sh -c {shlex.quote(c)}",
    lambda c: f"find . -exec sh -c {shlex.quote(c)} \\;",
    lambda c: f"ssh host {shlex.quote(c)}",
    lambda c: f"docker exec web sh -c {shlex.quote(c)}",
    lambda c: f"bash <<'E_O_F'\n{c}\nE_O_F",
    lambda c: f"bash <<< {shlex.quote(c)}",
    lambda c: f"echo {shlex.quote(c)} | sh",
    lambda c: f"X={shlex.quote(c)}; eval $X",
    lambda c: f"alias ls={shlex.quote(c)}; ls",
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(DANGEROUS), st.lists(st.sampled_from(DISGUISES), min_size=1, max_size=3))
def test_no_wrapper_makes_a_dangerous_command_low(entry: tuple[str, str], disguises: list[Disguise]) -> None:
    text = entry[0]
    assume(not isinstance(SIGHT.parse(text, 60.0), Unparsed))  # what is broken, a disguise may mend: `ls |`
    for disguise in disguises:
        text = disguise(text)
    assert level(text) != "low"


def spelled(word: str, ways: list[int]) -> str:
    """The same word, every sign written in one of five ways."""
    signs = []
    for sign, way in zip(word, (ways * len(word))[: len(word)], strict=True):
        ansi = f"$'\\x{ord(sign):02x}'"
        signs.append([sign, f"\\{sign}", f"'{sign}'", f'"{sign}"', ansi][way] if sign != "~" else sign)
    return "".join(signs)


PLAIN = (
    "rm -rf /",
    "rm -rf ./build",
    "git push --force origin main",
    "git reset --hard",
    "cat .env",
    "chmod -R 777 .",
    "kubectl delete pod web",
    "terraform destroy",
    "shutdown now",
    "dd if=x of=/dev/sda",
    "sudo rm x",
    "npm publish",
    "crontab -r",
    "find . -delete",
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PLAIN), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_quoting_never_lowers_a_level(text: str, ways: list[int]) -> None:
    disguised = " ".join(spelled(word, ways) for word in text.split())
    assert level_rank(level(disguised)) >= level_rank(level(text)), disguised


TOKENS = st.sampled_from(
    [
        *[
            "ls",
            "rm",
            "-rf",
            "/",
            "~",
            ".env",
            "git",
            "push",
            "sh",
            "-c",
            "eval",
            "sudo",
            "env",
            "xargs",
            "find",
            "-exec",
            "python",
            "-",
            "then",
            "fi",
            "for",
            "in",
            "do",
            "done",
        ],
        *[
            "$(",
            ")",
            "`",
            "'",
            '"',
            "${",
            "}",
            "$((",
            "))",
            "[[",
            "]]",
            "|",
            "&",
            ";",
            "&&",
            "||",
            ">",
            "<",
            "<<",
            "<<<",
            "EOF",
            "\\",
            "#",
            "*",
            "?",
            "[",
            "]",
            "{",
            ",",
            "a=b",
            "$x",
            "{a,b}",
            "if",
            "while",
        ],
        *("case", "esac", "function", "time", "!", "\\;", "\n", "\t"),
    ]
)
GROUND = Ground(CWD, HOME, SIGHT)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(TOKENS, max_size=25).map(" ".join)))
@example("\ud800")
@example("\0rm -rf /")
@example("")
@example("((" * 3000)
@example("$(" * 200 + "ls" + ")" * 200)
@example("a;" * 20_000)
@example("x" * 100_000)
@example("sh -c " * 40 + "ls")
@example("env " * 4000 + "ls")
def test_every_text_can_be_judged(text: str) -> None:
    found = judge.shell(text, GROUND)
    assert all(one.reason and one.impact for one in found)
    assert assessed(text).level in ("low", "medium", "high", "critical")


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.text(max_size=4), st.integers(0, 3)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["Type", "Cmd", "Stmts", "Args", "Parts", "Value", "Redirs", "Op", "Word", "X", "Y"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["Stmts", "Cmd", "Type"]), TREES, max_size=3))
def test_a_parser_that_answers_strangely_cannot_stop_the_gate(tree: dict[str, Any]) -> None:
    sight = Sight(parse=lambda _text, _within_s: tree)
    found = assess("Bash", parse(json.dumps({"command": "ls"})), CWD, HOME, sight)
    assert found.level in ("low", "medium", "high", "critical")


def test_what_is_too_long_or_too_deep_is_high() -> None:
    for text in (
        "a;" * 20_000,
        "((" * 3000,
        "$(" * 200 + "ls" + ")" * 200,
        "ls " + "x" * 100_000,
        "ls " * 3000 + "|" * 9,
    ):
        assert level_rank(level(text)) >= level_rank("high")
