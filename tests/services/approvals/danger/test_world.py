"""The real parser and the real file system: what is missing, hostile or linked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.approvals.danger import assess
from services.approvals.danger.sight import Unparsed
from services.approvals.reading import parse
from services.approvals.world import MAX_TEXT_BYTES, PATH_MAX, find_shfmt, resolve, sight
from tests.services.approvals.support import World


def level(tool: str, cwd: Path, home: Path, **value: Any) -> str:
    eyes = replace(sight(deadline_s=60.0), user_home=str(cwd.parent))
    return assess(tool, parse(json.dumps(value)), str(cwd), str(home), eyes).level


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A project and Pointsman's home, in a directory that is nobody's temporary one by its name."""
    user = tmp_path / "ada"
    project, home = user / "app", user / "state" / "pointsman"
    for folder in (project / "src", home, user / ".ssh", user / "other"):
        folder.mkdir(parents=True)
    for file in (
        project / "a.py",
        project / ".env",
        home / "key",
        user / ".ssh" / "id_rsa",
        user / "other" / "b.py",
    ):
        file.write_text("x")
    return project, home


def test_links_are_followed(place: tuple[Path, Path]) -> None:
    project, home = place
    (project / "harmless").symlink_to(home / "key")
    (project / "notes").symlink_to(project.parent / ".ssh")
    (project / "config").symlink_to(project / ".env")
    (project / "twice").symlink_to(project / "config")
    (project / "deep").symlink_to(home)
    (project / "inside").symlink_to(project / "a.py")
    for tool, path, expected in (
        ("Read", "harmless", "critical"),
        ("Write", "harmless", "critical"),
        ("Read", "deep/key", "critical"),
        ("Read", "deep/../pointsman/key", "critical"),
        ("Read", "notes/id_rsa", "high"),
        ("Write", "notes/authorized_keys", "critical"),
        ("Read", "config", "high"),
        ("Edit", "twice", "high"),
        ("Read", "inside", "low"),
        ("Read", "missing", "low"),
        ("Write", "inside", "medium"),
    ):
        assert level(tool, project, home, file_path=path) == expected, path
    for command, expected in (
        ("cat harmless", "critical"),
        ("cat src/../deep/key", "critical"),
        ("cd deep && cat key", "critical"),
        ("cd src && cat ../harmless", "critical"),
        ("echo x > harmless", "critical"),
        ("cat < config", "high"),
        ("cat notes/id_rsa", "high"),
        ("cp a.py notes/x", "critical"),
        ("cat inside", "low"),
    ):
        assert level("Bash", project, home, command=command) == expected, command
    (project.parent / "linked").symlink_to(project)
    assert level("Read", project.parent / "linked", home, file_path=str(project / "a.py")) == "low"


def test_without_shfmt_every_command_is_high(tmp_path: Path) -> None:
    eyes = sight(str(tmp_path / "gone"))
    found = assess("Bash", parse('{"command":"ls"}'), "/work", "/home/ada/p", eyes)
    assert (found.level, found.reason) == ("high", "Bash cannot be parsed here")
    assert assess("Bash", parse('{"command":"rm -rf /"}'), "/work", "/home/ada/p", eyes).level == "critical"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "text",
    ["exec sleep 600", "exec yes", "echo '[1]'", "echo '{'", "exit 3", "echo no >&2; exit 1", "kill -9 $$",
    "cat >/dev/null; exec sleep 600"],
)  # fmt: skip
def test_a_parser_that_fails_is_no_tree(tmp_path: Path, text: str) -> None:
    found = sight(script(tmp_path / "shfmt", text), deadline_s=0.5).parse("ls", 60.0)
    assert isinstance(found, Unparsed)
    assert found.why


def test_a_text_is_parsed_once_while_it_is_talked_about(tmp_path: Path) -> None:
    log = tmp_path / "log"
    eyes = sight(script(tmp_path / "shfmt", f"cat >/dev/null; echo x >>{log}; echo '{{}}'"), deadline_s=30.0)
    assert [eyes.parse(text, 30.0) for text in ("ls", "ls", "pwd")] == [{}, {}, {}]
    assert len(log.read_text().splitlines()) == 2


def test_the_parser_is_the_one_that_came_with_pointsman() -> None:
    found = find_shfmt()
    assert found is not None
    assert isinstance(sight(found, 60.0).parse("ls | wc", 60.0), dict)
    assert isinstance(sight(found, 60.0).parse("ls '", 60.0), Unparsed)
    assert isinstance(sight(found, 60.0).parse("x" * (MAX_TEXT_BYTES + 1), 60.0), Unparsed)
    assert isinstance(sight(found, 60.0).parse("\ud800", 60.0), Unparsed)


def test_what_is_there_is_no_branch(place: tuple[Path, Path]) -> None:
    """`git checkout src` throws away what is not committed in there, if it is no branch's name."""
    project, home = place
    (project / "Makefile").touch()
    for command, expected in (
        ("git checkout Makefile", "high"),
        ("git checkout src", "high"),
        ("cd src && git checkout ../src", "high"),
        ("git checkout main", "low"),
        ("git checkout -b src", "low"),
    ):
        assert level("Bash", project, home, command=command) == expected, command


def test_what_a_search_is_told_to_look_into(place: tuple[Path, Path]) -> None:
    """The tool's own globs, as a file's name, behind any directory, and as one choice of several."""
    project, home = place
    for glob, expected in (
        (".env", "high"),
        ("**/.env", "high"),
        ("{.env,notes.txt}", "high"),
        ("**/*.{md,pem}", "high"),
        ("{{a,.env},b}", "high"),
        ("**/*.{ts,tsx}", "low"),
        ("{a,b", "low"),
        ("{a,b}" * 7, "high"),
        ("{" * 5000 + "a,.env" + "}" * 5000, "high"),
    ):
        assert level("Grep", project, home, pattern="KEY", glob=glob) == expected, glob
    assert level("Read", project, home, file_path=["a.py"]) == "critical"


NUL = "a\0b"


@pytest.mark.parametrize(
    ("tool", "value", "cwd"),
    [
        ("Read", {"file_path": f"/etc/{NUL}"}, "/work/app"),
        ("Write", {"file_path": NUL}, "/work/app"),
        ("Grep", {"path": NUL, "glob": NUL}, "/work/app"),
        ("Glob", {"pattern": f"/{NUL}/*"}, "/work/app"),
        ("Bash", {"command": f"cat {NUL} > /{NUL}; cd {NUL}"}, "/work/app"),
        ("mcp__x__y", {"path": NUL, NUL: [NUL]}, "/work/app"),
        ("Bash", {"command": "make"}, f"/work/{NUL}"),
    ],
)
def test_a_path_that_no_kernel_takes_does_not_stop_the_gate(
    tool: str, value: dict[str, Any], cwd: str
) -> None:
    """Its question would come again, and stop it again."""
    world = World(sight=sight())
    world.judge("h1", json.dumps(value), tool=tool, cwd=cwd)
    world.ask("a1", json.dumps(value), tool=tool, cwd=cwd)
    world.decide("a1")
    assert world.answers("a1")[0].decision == "approved"


def test_a_path_is_followed_as_far_as_a_program_could(place: tuple[Path, Path]) -> None:
    project, home = place
    (project / "link").symlink_to(home)
    detour = "x/../" * PATH_MAX
    assert resolve(f"{project}/{detour}link/key") == str((home / "key").resolve()), "shortened, it is one"
    far = "/a" * 2_000_000  # the kernel refuses it; to look at each part of it would take a day
    assert resolve(far) == far
    assert resolve("/\ud800") == "/\ud800"
