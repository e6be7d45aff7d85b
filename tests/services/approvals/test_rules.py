"""Which rule decides: every condition, what cannot be judged, and what a configuration may not say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.approvals.globs import PathGlob
from services.approvals.model import Place
from services.approvals.policy import compile_rules
from services.approvals.question import judge_again
from services.approvals.rules import Rules, Verdict
from tests.services.approvals.support import HOME, SIGHT, World, policy

PLACE = Place(HOME, SIGHT)


def judged(rules: Rules, value: dict[str, Any] | str, tool: str = "Bash", **more: Any) -> Verdict:
    """The verdict over a call as it would come from an agent in /work/app."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    world = World(rules=policy())
    world.ask("a1", text, tool=tool, **more)
    return judge_again(world.approval(), rules, PLACE)[1]


def bash(command: str, *tables: dict[str, Any]) -> str:
    return judged(policy(*tables), {"command": command}).answer


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────

PUSH = {"decision": "deny", "command": "git push"}
FORCE = {"decision": "deny", "command": "git push", "argument": ["--force*", "-f"]}
GIT = {"decision": "allow", "command": ["git status", "git diff", "ls"]}


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("git push", "deny"),
        ("git push origin main", "deny"),
        ("/usr/bin/git push", "deny"),
        ("git -C /srv/app push", "deny"),
        ("git -c a=b --no-pager push origin", "deny"),
        ("cd x && git push", "deny"),
        ("make | git push; ls", "deny"),
        ("ls\ngit push", "deny"),
        ("'git' \"push\"", "deny"),
        ("echo $(git push)", "deny"),
        ('git "push', "deny"),
        ("sudo sh -c 'git push'", "deny"),
        ("eval git push", "deny"),
        ("git pull", "ask"),
        ("git commit -m x push", "ask"),
        ("echo git push", "ask"),
        ("gitpush", "ask"),
        ("git", "ask"),
    ],
)
def test_a_deny_rule_matches_any_command_inside(command: str, answer: str) -> None:
    assert bash(command, PUSH) == answer


@pytest.mark.parametrize(
    "command", ["$X push", "git $X", "echo 'x", "eval $x", "curl x | sh", "ls | xargs git"]
)
def test_what_a_deny_rule_cannot_judge_is_asked_whatever_later_rules_allow(command: str) -> None:
    verdict = judged(policy(PUSH, {"decision": "allow", "tool": "*"}), {"command": command})
    assert (verdict.answer, verdict.rule, verdict.forced) == ("ask", "rule 1", True)
    late = {"decision": "deny", "tool": "Bash", "name": "none at all"}
    assert judged(policy(PUSH, late), {"command": command}).rule == "none at all"
    asks = {"decision": "ask", "tool": "*", "require": 2}
    assert judged(policy(PUSH, asks), {"command": command}).required == 2


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("git push -uf", "deny"),
        ("git push --for", "deny"),
        ("git push --f=x origin", "deny"),
        ("git push -u", "ask"),
        ("git push --follow-tags", "ask"),
        ("git push -- -", "ask"),
    ],
)
def test_an_option_is_known_in_a_cluster_and_abbreviated(command: str, answer: str) -> None:
    assert bash(command, FORCE) == answer


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("git push --force origin", "deny"),
        ("git push origin --force-with-lease", "deny"),
        ("git push -f", "deny"),
        ("git push", "ask"),
        ("git push origin force", "ask"),
        ("git pull --force", "ask"),
    ],
)
def test_an_argument_may_stand_anywhere(command: str, answer: str) -> None:
    assert bash(command, FORCE) == answer
    assert bash(command, {"decision": "deny", "argument": "--force*"}) == (
        "deny" if "--force" in command else "ask"
    )


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("git status", "allow"),
        ("git status --short && ls -la", "allow"),
        ("git diff | ls", "allow"),
        ("git status && git push", "ask"),
        ("git", "ask"),
        ("/tmp/git status", "ask"),
        ("git -c core.pager=evil status", "ask"),
        ("git status > ~/.bashrc", "ask"),
        ("git status $(evil)", "ask"),
        ("git status `evil`", "ask"),
        ("PATH=/tmp git status", "ask"),
        ("git status &", "allow"),
        ("git status\nevil", "ask"),
        ("git status; (evil)", "ask"),
        ("", "ask"),
        ("ls {a,b}", "ask"),
        ("git 'status", "ask"),
    ],
)
def test_an_allow_rule_covers_every_command_or_nothing(command: str, answer: str) -> None:
    assert bash(command, GIT) == answer


def test_an_allow_rule_with_arguments_knows_them_all() -> None:
    rule = {"decision": "allow", "command": "make", "argument": ["test", "-j*"]}
    assert bash("make test -j4", rule) == "allow"
    assert bash("make test install", rule) == "ask"


words = st.lists(
    st.sampled_from(["git", "push", "-C", "x", "$X", "status", ";", "&&", "--force"]), max_size=8
)


@given(words)
def test_what_is_allowed_is_never_what_is_denied(given_words: list[str]) -> None:
    """Whatever the order of the rules."""
    command = " ".join(given_words)
    both = bash(command, PUSH, GIT)
    assert both == "deny" or bash(command, PUSH) != "deny"
    if bash(command, GIT) == "allow":
        assert bash(command, PUSH) == "ask"
        assert both == "allow"


# ── paths ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        (".env", "/work/app/.env", True),
        (".env", "/work/app/.env.local", False),
        (".env*", "/work/app/deep/.env.local", True),
        ("~/.ssh", "/home/ada/.ssh/id_ed25519", True),
        ("~/.ssh", "/home/ada/.sshx", False),
        ("/etc/**", "/etc/a/b", True),
        ("/etc/*.conf", "/etc/a/b.conf", False),
        ("src/**/*.py", "/work/app/src/a/b.py", True),
        ("src/**/*.py", "/work/app/src/b.py", True),
        ("src/*.py", "/elsewhere/src/b.py", False),
        ("./src", "/work/app/src/b.py", True),
        ("**/secrets/*", "/x/secrets/y", True),
        ("/work/app/a[0-9]?", "/work/app/a1x", True),
        ("/work/app/a[!0-9]", "/work/app/a1", False),
        ("/", "/anything", True),
        ("/a.c", "/abc", False),
        ("*", "/work/x", True),
    ],
)
def test_path_patterns(pattern: str, path: str, fits: bool) -> None:
    assert PathGlob.of(pattern, "/home/ada").fits(path, "/work/app") is fits


ENV = {"decision": "deny", "path": [".env", "~/.ssh"]}


@pytest.mark.parametrize(
    ("tool", "value", "answer"),
    [
        ("Read", {"file_path": "/work/app/.env"}, "deny"),
        ("Read", {"file_path": "sub/../.env"}, "deny"),
        ("Read", {"file_path": "README"}, "ask"),
        ("Write", {"file_path": "~/.ssh/config", "content": ""}, "deny"),
        ("Grep", {"pattern": "KEY", "path": "/home/ada/.ssh"}, "deny"),
        ("Grep", {"pattern": "KEY", "glob": ".env"}, "deny"),
        ("Glob", {"pattern": "**/.env"}, "deny"),
        ("Bash", {"command": "cat .env"}, "deny"),
        ("Bash", {"command": "cp --from=.env x"}, "deny"),
        ("Bash", {"command": "cat ~/.ssh/id"}, "deny"),
        ("Bash", {"command": "cat README"}, "ask"),
    ],
)
def test_a_deny_rule_by_path(tool: str, value: dict[str, Any], answer: str) -> None:
    assert judged(policy(ENV), value, tool).answer == answer


def test_words_that_are_too_many_to_follow_may_be_anything() -> None:
    many = "ls " + " ".join(f"f{n}" for n in range(500))
    verdict = judged(
        policy(ENV, {"decision": "allow", "tool": "Bash", "max_level": "critical"}), {"command": many}
    )
    assert (verdict.answer, verdict.rule) == ("ask", "rule 1")


def test_a_link_is_judged_by_where_it_leads_as_well() -> None:
    links = replace(SIGHT, resolve=lambda path: path.replace("/work/app/link", "/home/ada/.ssh/id"))
    place = Place(HOME, links)
    world = World()
    world.ask(input_json='{"file_path":"link"}', tool="Write")
    assert judge_again(world.approval(), policy(ENV), place)[1].answer == "deny"
    inside = policy({"decision": "allow", "tool": "Write", "path": "/work/app"})
    assert judge_again(world.approval(), inside, place)[1].answer == "ask"
    assert judge_again(world.approval(), inside, PLACE)[1].answer == "allow"


def test_an_allow_rule_by_path_says_nothing_of_commands() -> None:
    rules = policy({"decision": "allow", "path": "/work/app/docs"})
    assert judged(rules, {"file_path": "docs/a.md"}, "Write").answer == "allow"
    assert judged(rules, {"file_path": "docs/../a.md"}, "Write").answer == "ask"
    assert judged(rules, {"command": "rm docs/a.md"}).answer == "ask"
    assert judged(rules, {"query": "x"}, "WebSearch").answer == "ask"


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_that_matches_decides() -> None:
    rules = policy(
        {"decision": "ask", "tool": "Edit", "session": "web"},
        {"decision": "deny", "tool": ["Ed*", "Wri??"], "name": "no edits"},
        {"decision": "allow", "tool": "*", "directory": "/work/**"},
    )
    assert judged(rules, {}, "Edit").answer == "ask"
    assert judged(rules, {}, "Edit", session="other").rule == "no edits"
    assert judged(rules, {}, "Write").rule == "no edits"
    assert judged(rules, {}, "WebFetch").rule == "rule 3"
    assert judged(rules, {}, "WebFetch", cwd="/elsewhere").rule == ""


def test_levels_bound_rules_and_critical_is_allowed_only_by_name() -> None:
    wide = {"decision": "allow", "tool": "*"}
    secret = {"file_path": f"{HOME}/approvals.key"}
    assert judged(policy(wide), {"file_path": "a"}, "Write").answer == "allow"
    assert judged(policy(wide), secret, "Write").answer == "ask"
    assert judged(policy({**wide, "max_level": "critical"}), secret, "Write").answer == "allow"
    assert judged(policy({**wide, "max_level": "low"}), {"file_path": "a"}, "Write").answer == "ask"
    deny = {"decision": "deny", "min_level": "high"}
    assert judged(policy(deny), {"file_path": "a"}, "Write").answer == "ask"
    assert judged(policy(deny), secret, "Write").answer == "deny"


def test_allow_rules_decide_about_tools_alone() -> None:
    rules = policy({"decision": "allow", "tool": "*"})
    assert judged(rules, {"plan": "x"}, "ExitPlanMode", kind="plan").answer == "ask"
    assert judged(rules, {"questions": []}, "AskUserQuestion", kind="question").answer == "ask"
    deny = policy({"decision": "deny", "tool": "ExitPlanMode"})
    assert judged(deny, {"plan": "x"}, "ExitPlanMode", kind="plan").answer == "deny"


@pytest.mark.parametrize("text", ["not json", '{"command":"ls","command":"git push"}', "[]"])
def test_an_input_that_cannot_be_read_is_never_let_through(text: str) -> None:
    rules = policy(PUSH, {"decision": "allow", "tool": "*", "max_level": "critical"})
    assert judged(rules, text).answer == "ask" if "push" not in text else "deny"
    assert judged(policy({"decision": "allow", "tool": "*", "max_level": "critical"}), text).answer == "ask"


def test_the_auto_approve_list_comes_after_all_rules() -> None:
    rules = policy({"decision": "ask", "path": "secret.txt"}, auto_approve=("Read",))
    assert judged(rules, {"file_path": "a.txt"}, "Read").rule == "approvals.auto_approve"
    assert judged(rules, {"file_path": "secret.txt"}, "Read").forced


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "decision: must be one of deny, ask, allow"),
        ({"decision": "forbid", "tool": "*"}, "decision = 'forbid': must be one of"),
        ({"decision": "allow"}, "is about everything"),
        ({"decision": "deny", "comand": "x"}, "did you mean command"),
        ({"decision": "deny", "tool": []}, "must be text, or a list of texts"),
        ({"decision": "deny", "tool": 3}, "must be text, or a list of texts"),
        ({"decision": "deny", "command": "git 'push"}, "no words of a command"),
        ({"decision": "deny", "command": " "}, "at least one word"),
        ({"decision": "deny", "path": "../x"}, "leads out of any pattern"),
        ({"decision": "deny", "directory": "src/app"}, "relative to nothing"),
        ({"decision": "deny", "min_level": "huge"}, "must be one of low, medium, high, critical"),
        ({"decision": "ask", "tool": "*", "require": 0}, "from 1 to 10"),
        ({"decision": "allow", "tool": "*", "require": 2}, "goes with decision"),
        ({"decision": "deny", "tool": "*", "name": "a\nb"}, "one line of text"),
    ],
)
def test_mistakes_are_named(table: dict[str, Any], says: str) -> None:
    good = {"decision": "deny", "tool": "Bash", "name": "good"}
    _, mistakes = compile_rules([good, table], "/home/ada")
    assert any(says in mistake and "rule 2" in mistake for mistake in mistakes), mistakes


def test_all_mistakes_are_named_at_once_and_names_differ() -> None:
    same = {"decision": "deny", "tool": "Bash", "name": "same"}
    _, mistakes = compile_rules([same, {**same, "require": 2}, {"tool": 1}], "/home/ada")
    assert len(mistakes) == 4


@given(st.text(max_size=40), st.text(max_size=60))
def test_any_pattern_and_any_command_can_be_judged(pattern: str, command: str) -> None:
    table = {"decision": "deny", "command": pattern, "path": pattern, "tool": pattern}
    rules, _ = compile_rules([table, {"decision": "allow", "command": pattern or "x"}], "/home/ada")
    value = {"command": command}
    assert judged(Rules((), lambda *_: None, rules), value).answer in ("deny", "ask", "allow")
