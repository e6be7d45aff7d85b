"""scripts/setup.sh says what is missing and what to type, in a world made of a few programs."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "id", "cat", "cmp", "cp", "rm", "flock", "env", "dirname")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A project of two files, and a PATH with next to nothing on it."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (tmp_path / "bin" / tool).symlink_to(found)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return tmp_path


def program(world: Path, name: str, script: str) -> None:
    path = world / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link to the system's own program
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def setup(world: Path, want: str = "run", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(ROOT / "scripts/setup.sh"), want],
        cwd=world,
        env={
            "PATH": str(world / "bin"),
            "APT": "no",
            "SBIN": str(world / "sbin"),
            "PGLIB": "none",
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_this_environment_has_what_pyproject_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in wanted}
    there = {re.sub("[-_.]+", "-", found.name).lower() for found in importlib.metadata.distributions()}
    missing = {name for name in names if re.sub("[-_.]+", "-", name).lower() not in there}
    assert not missing, f"{sorted(missing)} came after this .venv was made: type `scripts/setup.sh dev`"


def python(world: Path, name: str, version: str, *, venv: bool = True) -> None:
    """A Python that can say its version, and make a virtual environment of another such program."""
    new = int(version.split(".")[1]) >= 11
    program(
        world,
        name,
        'case "$*" in\n'
        f'  *"sys.exit(sys.version_info"*) exit {0 if new else 1} ;;\n'
        f"  *ensurepip*) exit {0 if venv else 1} ;;\n"
        f"  *-venv*) echo python{version}-venv ;;\n"
        f'  *"print("*) echo {version} ;;\n'
        '  "-m venv .venv") mkdir=1; '
        f'/bin/mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;\n'
        '  "-m pip "*) echo "pip $*" >&2 ;;\n'
        "esac",
    )


def complete(world: Path) -> None:
    for tool in ("tmux", "mosquitto", "mosquitto_pub", "openssl", "postgres", "node", "npm"):
        program(world, f"bin/{tool}", "exit 0")


def test_a_python_that_is_too_old(world: Path) -> None:
    complete(world)
    python(world, "bin/python3", "3.9")
    done = setup(world)
    assert done.returncode == 1
    assert "Pointsman needs Python 3.11 or later; python3 is 3.9;" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (world / ".venv").exists()


def test_no_python(world: Path) -> None:
    done = setup(world)
    assert done.returncode == 1
    assert "there is no python3 here" in done.stderr


def test_a_newer_one_beside_an_old_one_is_found(world: Path) -> None:
    complete(world)
    python(world, "bin/python3", "3.9")
    python(world, "bin/python3.12", "3.12")
    done = setup(world)
    assert done.returncode == 0, done.stderr
    assert "making .venv with python3.12 3.12" in done.stderr


def test_a_python_without_venv(world: Path) -> None:
    complete(world)
    program(world, "bin/apt-get", "exit 1")
    python(world, "bin/python3", "3.11", venv=False)
    done = setup(world)
    assert done.returncode == 1
    assert "sudo apt-get install -y python3.11-venv" in done.stderr


def test_the_second_time_nothing_is_done_until_pyproject_changes(world: Path) -> None:
    complete(world)
    python(world, "bin/python3", "3.11")
    first = setup(world)
    assert first.returncode == 0, first.stderr
    assert "pip -m pip --disable-pip-version-check install -q -e ." in first.stderr
    assert setup(world).stderr == ""
    (world / "pyproject.toml").write_text("[project]\nname='x'\n")
    assert "install -q -e ." in setup(world).stderr
    assert "--group dev" in setup(world, "dev").stderr
    assert setup(world).stderr == "", "what the tests need includes what running needs"


def test_a_project_that_was_moved_is_set_up_anew(world: Path) -> None:
    complete(world)
    python(world, "bin/python3", "3.11")
    setup(world)
    (world / ".venv/.place").write_text("/elsewhere\n")
    assert "making .venv" in setup(world).stderr


def test_a_missing_mosquitto_is_no_obstacle(world: Path) -> None:
    python(world, "bin/python3", "3.11")
    done = setup(world)
    assert done.returncode == 0
    assert "going on with the built-in broker" in done.stderr


def test_the_one_command_to_type(world: Path) -> None:
    complete(world)
    (world / "bin/tmux").unlink()
    program(world, "bin/apt-get", "exit 1")
    python(world, "bin/python3", "3.11")
    done = setup(world)
    assert done.returncode == 0
    assert (
        "tmux is missing: no session can be started without it. Type:  sudo apt-get install -y tmux"
        in done.stderr
    )


def test_what_cannot_be_installed_is_tried_once(world: Path) -> None:
    complete(world)
    (world / "bin/tmux").unlink()
    program(world, "bin/apt-get", f'echo "$*" >>{world}/tried; exit 1')
    program(world, "bin/id", "echo 0")
    python(world, "bin/python3", "3.11")
    for _ in range(2):
        assert "tmux is missing" in setup(world, APT="yes").stderr
    tried = (world / "tried").read_text().splitlines()
    assert tried == ["install -qq -y --no-install-recommends tmux", "update -qq"]


def test_shell_scripts_are_well_formed() -> None:
    for script in (ROOT / "scripts/setup.sh", ROOT / ".ci/run"):
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert script.stat().st_mode & 0o100
