"""The verb doctor, where it looks at the world of the services and not at its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bus import messages as m
from bus import topics as t
from tests.services.cli.support import NOW, Stage, play, state


@contextmanager
def controller(environ: dict[str, str]) -> Iterator[int]:
    """A process that looks like the tmux controller; gives its pid."""
    argv = [sys.executable, "-c", "input()", "-m", "services.tmux"]
    with subprocess.Popen(argv, env=environ, stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def claude(folder: Path) -> str:
    """A program that says that it is Claude Code; returns the PATH that it is found on."""
    folder.mkdir()
    program = folder / "claude"
    program.write_text("#!/bin/sh\necho '2.1.329 (Claude Code)'\n")
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def beat(pid: int) -> m.ServiceHealth:
    """The controller's."""
    return m.ServiceHealth(
        service="tmux", pid=pid, rss_bytes=1, cpu_percent=0.0, loop_lag_ms=0.0, uptime_s=1.0,
        queue_depth=0, errors_total=0, at=NOW,
    )  # fmt: skip


def run(stage: Stage, pid: int) -> dict[str, str]:
    """What doctor says of claude, while this process is the tmux controller."""
    told: dict[str, str] = {}

    async def body(stage: Stage) -> None:
        stage.services()
        stage.say(t.SERVICE_HEALTH, beat(pid), self="tmux")
        checks = (await stage.pointsman("doctor", "--json")).json["checks"]
        assert {check["status"] for check in checks if check["name"].startswith("services.")} == {"ok"}
        [found] = [check for check in checks if check["name"] == "claude"]
        told.update(found)

    play(stage, body)
    return told


def test_claude_is_looked_for_where_the_services_look(stage: Stage, tmp_path: Path) -> None:
    there = {**stage.environ, "PATH": claude(tmp_path / "theirs")}
    with controller(there) as pid:
        told = run(stage, pid)
    assert (told["status"], "2.1.329" in told["found"]) == ("ok", True)


def test_claude_on_this_terminals_path_alone_is_missing(stage: Stage, tmp_path: Path) -> None:
    there = dict(stage.environ)
    stage.environ["PATH"] = claude(tmp_path / "mine")
    with controller(there) as pid:
        told = run(stage, pid)
    assert (told["status"], told["found"]) == (
        "missing", "claude is not on the PATH with which Pointsman was started",
    )  # fmt: skip
    assert "start Pointsman anew" in told["mend"]


def test_the_configuration_is_that_of_the_services(stage: Stage, tmp_path: Path) -> None:
    claude(tmp_path / "theirs")
    there = {**stage.environ, "POINTSMAN_AGENT_CLAUDE": str(tmp_path / "theirs" / "claude")}
    with controller(there) as pid:
        assert run(stage, pid)["status"] == "ok"


def test_the_configuration_and_the_variables_that_nobody_reads(stage: Stage, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[ledger]\nbudgett = 5\n")
    there = {**stage.environ, "POINTSMAN_WATCHDGO_IDLE_S": "5"}
    stage.environ["POINTSMAN_CONFIG"] = str(config)

    async def body(stage: Stage) -> None:
        stage.services()
        stage.say(t.SERVICE_HEALTH, beat(pid), self="tmux")
        result = await stage.pointsman("doctor", "--json")
        found = {check["name"]: (check["status"], check["found"]) for check in result.json["checks"]}
        assert result.code == 1
        assert found["configuration"][0] == "missing"
        assert found["configuration"][1].startswith("ledger.budgett = 5 in ")
        assert found["environment"][0] == "warn"
        assert found["environment"][1].startswith("not read: POINTSMAN_WATCHDGO_IDLE_S: ")

    with controller(there) as pid:
        play(stage, body)


def test_a_controller_on_another_machine(stage: Stage, tmp_path: Path) -> None:
    """Its pid is somebody else's here: what this terminal sees is told, as such."""
    stage.environ["PATH"] = claude(tmp_path / "mine")
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as other:
        assert run(stage, other.pid)["status"] == "ok"
        other.kill()


def test_a_database_that_was_set_aside_is_told_until_something_stands_in_its_place(stage: Stage) -> None:
    home = Path(stage.environ["POINTSMAN_HOME"])
    for name in ("approvals.sqlite", "ledger.sqlite"):
        (home / f"{name}.damaged-20261121T090000Z").touch()
        (home / f"{name}.damaged-20261121T090000Z-wal").touch()
    (home / "ledger.sqlite").touch()

    async def body(stage: Stage) -> None:
        stage.services()
        checks = (await stage.pointsman("doctor", "--json")).json["checks"]
        told = {check["name"]: check["found"] for check in checks if "was found damaged" in check["found"]}
        assert list(told) == ["approvals"]
        assert told["approvals"].endswith("20261121T090000Z; the service does not begin an empty one")

    play(stage, body)


def test_a_warning_is_not_all_well(stage: Stage) -> None:
    async def body(stage: Stage) -> None:
        stage.services()
        stage.sessions(state(kind="sdk-url", enforcement="partial"))
        result = await stage.pointsman("doctor")
        said = " ".join(result.out.split())  # its lines are as wide as whatever terminal there is
        assert "rules do not reach every tool call of demo (partial)" in said
        assert "All is well" not in said

    play(stage, body)
