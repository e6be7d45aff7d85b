"""The shape of the project, held by machine: what is said once elsewhere must be so everywhere."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from bus import topics as t
from services import SERVICES
from services._process.config_keys import MAX_METRICS_PORTS
from services._process.output import ON_STDOUT
from services.supervision.conf import environment_of, supervisord_conf
from tests.meta.sources import ROOT, parsed, sources, texts

PROGRAMS = {"bridge", "cli", "demo", "supervision"}  # packages in services/ that supervisord does not start
IN_EVERY_SERVICE = {"__init__.py", "__main__.py", "core.py", "shell.py"}
LONG = 400  # lines; a longer file says in its docstring why it is. Tests are lists: they may be long


def packages() -> set[str]:
    found = {path.parent.name for path in (ROOT / "services").glob("*/__init__.py")}
    return {name for name in found if not name.startswith("_")}


# ── One table of services ────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_services_is_what_there_is() -> None:
    programs = {
        name.removeprefix("program:") for name in supervisord_conf().sections() if name.startswith("program:")
    }
    assert set(SERVICES) == packages() - PROGRAMS == programs
    assert [name for name, info in SERVICES.items() if name != info.name] == []


def test_the_linter_knows_every_package() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = document["tool"]["importlinter"]["contracts"][0]
    assert set(contract["modules"]) == {f"services.{name}" for name in packages()}


def test_metrics_ports_do_not_meet() -> None:
    offsets = [info.metrics_port for info in SERVICES.values()]
    assert len(set(offsets)) == len(offsets)
    assert max(offsets) < MAX_METRICS_PORTS


def test_the_topics_name_only_services_that_there_are() -> None:
    roles = {"viewer", "approver", "operator", "services", "device"}
    later = {"gateway", "homeassistant"}
    named = {actor for row in t.TABLE for actor in row.writers | row.readers} - roles - later
    assert named <= set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_files(service: str) -> None:
    folder = ROOT / "services" / service
    assert {path.name for path in folder.glob("*.py")} >= IN_EVERY_SERVICE
    assert len((folder / "__main__.py").read_text().splitlines()) <= 15
    assert ast.get_docstring(parsed(folder / "__init__.py"))


PACKAGES = sorted(
    path.parent.relative_to(ROOT)
    for path in sources("bus", "services")
    if path.name == "__init__.py" and "migrations" not in path.parts
)


@pytest.mark.parametrize("package", PACKAGES, ids=str)
def test_a_package_names_its_modules(package: Path) -> None:
    """A newcomer begins at its `__init__.py`, which says what each is for."""
    text = (ROOT / package / "__init__.py").read_text()
    modules = {path.stem for path in (ROOT / package).glob("*.py") if not path.stem.startswith("__")}
    assert {name for name in modules if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_what_it_is_asked_and_what_it_says(service: str) -> None:
    said = ast.get_docstring(parsed(ROOT / "services" / service / "__init__.py")) or ""
    own = [
        row.pattern
        for row in t.TABLE
        if service in row.writers or (row.kind is t.Kind.COMMAND and service in row.readers)
    ]
    assert [
        pattern
        for pattern in own
        if not all(word in said for word in pattern.split("/") if not word.startswith("{"))
    ] == []


# ── supervisord ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("service", SERVICES)
def test_every_program_is_started_alike(service: str) -> None:
    program = dict(supervisord_conf()[f"program:{service}"])
    assert program.pop("command") == f'"%(here)s/.venv/bin/python" -m services.{service} {ON_STDOUT}'
    assert program.pop("stdout_logfile") == f"{service}.log", "a name: the place is the home's"
    agents_live_on = service == "tmux"
    assert (program.pop("killasgroup", "false") == "true") is not agents_live_on
    assert (program.pop("priority", None) == "10") is (service == "broker")
    assert (program.pop("stdout_capture_maxbytes", None) is not None) is (service == "watchdog")
    like = dict(supervisord_conf()["program:ledger"])
    in_huge_pages = service == "approvals"
    environment = environment_of(service)
    assert ("hugetlb" in environment.pop("GLIBC_TUNABLES", "")) is in_huge_pages
    assert (environment.pop("PYTHONMALLOC", None) is not None) is in_huge_pages
    assert environment == environment_of("ledger")
    del program["environment"]
    own = {"command", "environment", "killasgroup", "priority", "stdout_logfile"}
    assert program == {key: like[key] for key in like if key not in own}


def test_all_but_the_broker_stop_at_once_and_before_it() -> None:
    group = supervisord_conf()["group:services"]
    assert set(group["programs"].split(",")) == set(SERVICES) - {"broker"}
    assert int(group["priority"]) > int(supervisord_conf()["program:broker"]["priority"])


def test_the_way_to_supervisord_stops_first_and_cannot_be_left_dead() -> None:
    """Its output is a protocol: it goes nowhere else."""
    listener = supervisord_conf()["eventlistener:supervision"]
    assert listener["command"] == '"%(here)s/.venv/bin/python" -m services.supervision'
    assert listener["result_handler"] == "services.supervision.inside:handle"
    assert (listener["autorestart"], listener["stdout_logfile"]) == ("true", "NONE")
    assert int(listener["priority"]) > int(supervisord_conf()["group:services"]["priority"])


def test_two_stacks_share_one_supervisord_conf_that_needs_no_environment() -> None:
    text = (ROOT / "supervisord.conf").read_text()
    settings = "\n".join(line for line in text.splitlines() if not line.startswith(";"))
    assert "ENV_" not in settings
    assert "http_server" not in settings
    assert supervisord_conf()["supervisord"]["nodaemon"] == "true"
    assert supervisord_conf()["supervisord"]["pidfile"] != "/dev/null", "supervisord would delete it"


def test_make_has_what_the_contract_names() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets >= {"help", "setup", "run", "test", "demo", "bench", "lint"}
    assert "make test" in (ROOT / ".ci/run").read_text()


# ── The sources ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path", sources("bus", "services", "benchmarks"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_a_long_file_says_why(path: Path) -> None:
    lines = len(path.read_text("utf-8").splitlines())
    docstring = ast.get_docstring(parsed(path)) or ""
    assert lines <= LONG or f"{LONG} lines" in docstring, (
        f"{lines} lines: split it, or say why in the docstring"
    )


@pytest.mark.parametrize("path", sources("bus", "services"), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_topic_is_spelt_outside_the_table(path: Path) -> None:
    if path == ROOT / "bus/topics.py":
        return
    found = [
        f"line {line}: {text!r} is {row.pattern}"
        for line, text in texts(parsed(path))
        for row in t.TABLE
        if "/" in text and (row.regex.match(text) or text == row.pattern)
    ]
    assert found == [], "take the row from bus.topics"


IGNORE = re.compile(r"# (?:ruff: )?(noqa: ?[A-Z0-9, ]+[0-9]|type: ignore\[[\w, -]+\])(.*)")


@pytest.mark.parametrize(
    "path", sources("bus", "services", "benchmarks"), ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_ignore_has_its_reason(path: Path) -> None:
    """Beside it, or above for the same in the lines below. A whole file's stands in a comment above."""
    reasons: dict[str, int] = {}  # what is ignored → the last line where it is, with a reason before it
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if (found := IGNORE.search(line)) is None:
            continue
        what, rest = found[1], found[2].strip(" #-")
        assert rest or reasons.get(what) == number - 1 or "# ruff: " in line, f"line {number}: {what}: why?"
        reasons[what] = number
