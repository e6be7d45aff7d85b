"""From start to exit code, with real processes, a real broker and a real supervisord.

Waits are for conditions, with a deadline; the times that the contract promises are deadlines of `wait`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services._process.home import Home
from services._process.output import ON_STDOUT
from tests.support.open_broker import Broker, join
from tests.support.stack import eventually
from tests.support.supervisord import Supervisord, our_conf

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[3]
TOY = [sys.executable, "-m", "tests.services.process.toy"]
DEADLINE_S = 60.0  # for what takes a second on an idle machine
STOP_S = 2.0  # promised by issue 2 (point 3), held by a hard deadline within the service
SLACK_S = 28.0  # for a machine that is busy with other tests; what does not stop at all, never does


STATUS = "services/ledger/status"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def environ(home: Home, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "config.toml").touch()
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "POINTSMAN_HOME": str(home.path),
        "POINTSMAN_CONFIG": str(tmp_path / "config.toml"),
        "POINTSMAN_NODE_NAME": "toys",
        "POINTSMAN_BUS_BROKER": "external",
        "POINTSMAN_BUS_PORT": "1",  # nobody there, unless a test has a broker
    }


@pytest.fixture
def toys() -> Iterator[list[subprocess.Popen[str]]]:
    """Whatever is started is ended."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for toy in started:
        toy.kill()
        toy.communicate()


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(environ: dict[str, str], toys: list[subprocess.Popen[str]]) -> Start:
    def start(what: str = "sleep", *, wait: bool = True, **more: Any) -> subprocess.Popen[str]:
        toy = subprocess.Popen(
            [*TOY, what],
            env={**environ, **more.pop("env", {})},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **more,
        )
        toys.append(toy)
        if wait:
            assert toy.stdout is not None
            assert toy.stdout.readline() == "serving\n", toy.communicate()[1]
        return toy

    return start


def log_lines(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.logs / "ledger.log").read_text().splitlines()]


def connected_metrics(port: int) -> str | None:
    """The metrics, once the connection stands: the broker may have our health before we have its SUBACK."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text if "pointsman_bus_connected 1.0" in text else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_is_told_to_stop(
    start: Start, environ: dict[str, str], broker: Broker, home: Home, number: int
) -> None:
    join(environ, broker)
    toy = start("tidy")
    broker.wait(STATUS, "online")
    eventually(lambda: "services/ledger/health" in broker.latest, "health is said")
    health = json.loads(broker.latest["services/ledger/health"])
    assert (health["service"], health["pid"], health["errors_total"]) == ("ledger", toy.pid, 0)
    assert health["rss_bytes"] > 1_000_000

    port = home.endpoints()["metrics"]["ledger"]
    text = eventually(lambda: connected_metrics(port), "the metrics show the connection")
    assert 'pointsman_build_info{service="ledger"' in text
    assert 'pointsman_bus_messages_total{row="services/{self}/health",way="out"} 1.0' in text
    assert "process_resident_memory_bytes" in text

    toy.send_signal(number)
    out, err = toy.communicate(timeout=STOP_S + SLACK_S)
    assert (toy.returncode, out, err) == (0, "tidied\n", "")
    broker.wait(STATUS, "offline")
    events = [line["event"] for line in log_lines(home)]
    assert sorted(events) == ["bus connected", "serving", "started", "stopped", "stopping"]
    assert (events[0], events[-2:]) == ("started", ["stopping", "stopped"])


def test_a_stubborn_service_is_ended_all_the_same(start: Start, home: Home) -> None:
    toy = start("stubborn")
    toy.terminate()
    _, err = toy.communicate(timeout=STOP_S + SLACK_S)
    assert toy.returncode == 0
    assert "ledger: warning: did not stop in time" in err


def test_without_a_broker_a_service_waits_and_stops(start: Start) -> None:
    toy = start()
    toy.terminate()
    toy.communicate(timeout=STOP_S + SLACK_S)
    assert toy.returncode == 0


def test_a_killed_service_is_offline_by_its_last_will_and_online_again(
    start: Start, environ: dict[str, str], broker: Broker
) -> None:
    join(environ, broker)
    first = start()
    broker.wait(STATUS, "online")
    first.kill()
    broker.wait(STATUS, "offline")
    start()
    broker.wait(STATUS, "online")


def test_a_crash_says_offline(start: Start, environ: dict[str, str], broker: Broker) -> None:
    join(environ, broker)
    toy = start("bug later")
    toy.communicate(timeout=DEADLINE_S)
    assert toy.returncode == 70
    broker.wait(STATUS, "offline")
    said = [payload for topic, payload in broker.seen if topic == STATUS]
    assert (said[0], said[-1]) == ("online", "offline")


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("bug", 70, "ledger: error: ended by a bug (where=tests/services/process/toy.py:"),
        ("return", 70, "ended by a bug"),
        ("both", 70, "KeyError"),
        ("group", 4, "ledger: the disk is full: make room"),
        ("config", 2, "ledger: bus.listen = 'x': needs TLS"),
    ],
)
def test_exit_codes(start: Start, home: Home, what: str, code: int, said: str) -> None:
    toy = start(what)
    _, err = toy.communicate(timeout=DEADLINE_S)
    assert toy.returncode == code, err
    assert said in err
    assert "Traceback" not in err
    if code == 70:
        assert "Traceback" in str(log_lines(home)[-1]["traceback"])


def test_a_mistake_in_the_configuration_ends_with_2_before_anything_is_made(start: Start, home: Home) -> None:
    toy = start(wait=False, env={"POINTSMAN_BUS_PROT": "1"})
    _, err = toy.communicate(timeout=DEADLINE_S)
    assert toy.returncode == 2
    assert err.startswith(
        "ledger: bus.prot = '1' from POINTSMAN_BUS_PROT: there is no such key; did you mean bus.port?"
    )
    assert not home.path.exists()


def test_a_half_edited_file_ends_with_2_and_says_where(start: Start, home: Home, tmp_path: Path) -> None:
    """docs/operations.md says what becomes of agents then; rules alone fall back to the last good ones."""
    file = tmp_path / "half.toml"
    file.write_text("[approvals]\ntimeout_s = \n")
    toy = start(wait=False, env={"POINTSMAN_CONFIG": str(file)})
    _, err = toy.communicate(timeout=DEADLINE_S)
    assert toy.returncode == 2
    assert str(file) in err
    assert "line 2" in err
    assert not home.path.exists()


def test_a_misspelt_variable_is_told(start: Start, home: Home) -> None:
    toy = start(env={"POINTSMAN_APROVALS_TIMEOUT_S": "5"})
    toy.terminate()
    _, err = toy.communicate(timeout=DEADLINE_S)
    said = (
        "POINTSMAN_APROVALS_TIMEOUT_S: there is no section 'aprovals'; "
        "did you mean POINTSMAN_APPROVALS_TIMEOUT_S?"
    )
    assert f"variable not read (reason={said})" in err
    assert [line["reason"] for line in log_lines(home) if line["event"] == "variable not read"] == [said]


def test_a_home_open_to_others_ends_with_2(start: Start, home: Home) -> None:
    home.path.mkdir()
    home.path.chmod(0o777)
    toy = start(wait=False)
    assert "others may write into the home" in toy.communicate(timeout=DEADLINE_S)[1]
    assert toy.returncode == 2


def test_a_configured_port_that_is_taken_ends_with_4(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        base = server.getsockname()[1] - 4  # the ledger's place in services.SERVICES
        toy = start(wait=False, env={"POINTSMAN_METRICS_BASE_PORT": str(base)})
        _, err = toy.communicate(timeout=DEADLINE_S)
    assert toy.returncode == 4
    assert f"metrics.ledger = {base + 4} at 127.0.0.1 is taken by" in err
    assert "choose another metrics.base_port" in err
    assert f"(pid {os.getpid()})" in err


def test_a_second_one_for_the_same_home_ends_with_3(start: Start, home: Home) -> None:
    first = start()
    second = start(wait=False)
    _, err = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == 3
    assert f"ledger already runs for {home.path} (pid {first.pid})" in err
    assert first.poll() is None


def test_a_successor_waits_for_its_predecessor(start: Start) -> None:
    first = start("tidy")
    second = start(wait=False)
    first.terminate()
    assert second.stdout is not None
    assert second.stdout.readline() == "serving\n"
    assert first.wait(DEADLINE_S) == 0


def test_two_homes_run_side_by_side(start: Start, tmp_path: Path) -> None:
    start()
    start(env={"POINTSMAN_HOME": str(tmp_path / "second")})
    ports = [Home(tmp_path / name).endpoints()["metrics"]["ledger"] for name in ("home", "second")]
    assert ports[0] != ports[1]


# ── The supervisor ───────────────────────────────────────────────────────────────────────────────────────

PARENT = (
    "import subprocess, sys, time\n"
    "toy = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
    "toy.stdout.readline()\n"
    "print(toy.pid, flush=True)\n"
    "time.sleep(600)\n"
)


def left_behind(environ: dict[str, str], toys: list[subprocess.Popen[str]]) -> psutil.Process:
    """A service whose parent was killed."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *TOY, "sleep"],
        env=environ,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    toys.append(parent)
    assert parent.stdout is not None
    toy = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    return toy


def test_a_service_ends_with_a_killed_supervisor(
    environ: dict[str, str], toys: list[subprocess.Popen[str]]
) -> None:
    left_behind({**environ, "SUPERVISOR_ENABLED": "1"}, toys).wait(STOP_S + SLACK_S)


def test_a_service_whose_supervisor_was_gone_before_it_looked_ends_at_once(start: Start) -> None:
    """An orphan has a parent in another session than its own."""
    toy = start(wait=False, env={"SUPERVISOR_ENABLED": "1"}, start_new_session=True)
    out, err = toy.communicate(timeout=DEADLINE_S)
    assert (toy.returncode, out, err) == (0, "", "")


def test_started_by_hand_a_service_minds_no_parent(
    environ: dict[str, str], toys: list[subprocess.Popen[str]]
) -> None:
    toy = left_behind(environ, toys)
    try:
        with pytest.raises(psutil.TimeoutExpired):
            toy.wait(1.5)  # longer than the look at the parent every second
    finally:
        toy.kill()


def holder(home: Home, after: psutil.Process | None = None) -> psutil.Process | None:
    """The living process that wrote itself into the lock, if it is another than the one before."""
    try:
        found = psutil.Process(int((home.path / "run/ledger.lock").read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
    return None if found == after else found


def under_supervisord(folder: Path, environ: dict[str, str], **more: str) -> Supervisord:
    commands = {"ledger": " ".join([*TOY, "sleep"]), **more}
    conf = our_conf(folder, {name: f"{command} {ON_STDOUT}" for name, command in commands.items()})
    quiet = {name: value for name, value in environ.items() if name != "PYTHONWARNINGS"}
    return Supervisord(conf, quiet, folder / "supervisord.out")


def says(supervisord: Supervisord, text: str) -> None:
    eventually(lambda: text in supervisord.said(), f"supervisord says {text!r}: {supervisord.said()}")


def test_under_supervisord(tmp_path: Path, environ: dict[str, str], home: Home) -> None:
    """Killed: started again. supervisord killed: the service ends, and the next one has its own."""
    with under_supervisord(tmp_path, environ) as first:
        one = eventually(lambda: holder(home), "the service runs")
        says(first, "entered RUNNING")
        one.kill()
        two = eventually(lambda: holder(home, after=one), "the service runs again")
        says(first, "terminated by SIGKILL; not expected")
        first.process.kill()
        first.process.wait()
    with under_supervisord(tmp_path, environ) as second:
        two.wait(DEADLINE_S)
        three = eventually(lambda: holder(home, after=two), "the next supervisord's service runs")
        eventually(lambda: any(line.get("pid") == three.pid for line in log_lines(home)), "it has started")
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(10) == 0  # issue 2: Ctrl-C ends everything within 10 s
        assert not three.is_running()


def test_a_mistake_in_the_configuration_is_left_alone_until_it_is_mended(
    tmp_path: Path, environ: dict[str, str], broker: Broker, home: Home
) -> None:
    """It is made while everything runs: with it, supervisord itself would not start."""
    join(environ, broker)
    config, ended = tmp_path / "config.toml", "exited: ledger (exit status 2; expected)"
    with under_supervisord(
        tmp_path, environ, watchdog=f"{sys.executable} -m services.watchdog"
    ) as supervisord:
        service = eventually(lambda: holder(home), "the service runs")
        broker.wait("services/watchdog/status", "online")
        says(supervisord, "success: ledger entered RUNNING")
        config.write_text("[bus]\nprot = 1\n")
        service.kill()
        eventually(lambda: supervisord.said().count(ended) == 2, "it is left alone, and tried once more")
        assert "did you mean bus.port?" in str(log_lines(home)[-1]["reason"])
        config.write_text("")
        eventually(lambda: holder(home, after=service), "it runs again")
        log = home.logs / "watchdog.log"
        eventually(lambda: "service started again" in log.read_text(), "the watchdog's log tells it")
        reason = "ledger had ended over a mistake in the configuration, and reads it anew"
        eventually(
            lambda: [p for topic, p in broker.seen if topic == "watchdog/events" and reason in p],
            "it is told",
        )
        supervisord.process.terminate()
        assert supervisord.process.wait(10) == 0
