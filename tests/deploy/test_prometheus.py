"""The real Prometheus beside a stack under load: every rule and every query of the dashboards is asked."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.build import BOARDS, built
from tests.support.scripted import ScriptedStack
from tests.support.stack import ROOT, SERVICES, Recorder, eventually

DEPLOY = ROOT / "deploy" / "prometheus"
METRIC = re.compile(r"\b((?:pointsman|process|up)(?:_[a-z0-9_]+)?)\b(?=[{\s\[)]|$)")

LEGEND = re.compile(r"{{(\w+)}}")
LABEL_VALUES = re.compile(r"label_values\((?P<of>.*), (?P<label>\w+)\)")

Rules = list[dict[str, Any]]


def rules() -> Rules:
    groups = yaml.safe_load((DEPLOY / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def program(name: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is not installed: `make setup-dev` installs it, or says what to type"
    return found


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool"), *arguments], cwd=DEPLOY, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_say_what_their_tests_expect() -> None:
    promtool("check", "rules", "rules.yml")
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "rules_test.yml")
    tested = (DEPLOY / "rules_test.yml").read_text()
    assert all(rule["alert"] in tested for rule in rules() if "alert" in rule)


class Prometheus:
    """As deploy/prometheus says, but for the path of the targets and how often it looks."""

    def __init__(self, folder: Path, targets: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "rules.yml")]
        sd = config["scrape_configs"][0]["file_sd_configs"][0]
        assert Path(sd["files"][0]).name == targets.name
        sd["files"], sd["refresh_interval"] = [str(targets)], "1s"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query. An AssertionError when it is not valid."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from error

    def served(self) -> set[str]:
        """Every metric that is told of, also those without a value yet; counters by their base name."""
        url = f"http://127.0.0.1:{self.port}/api/v1/metadata"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return {name.removesuffix("_total") for name in json.load(answer)["data"]}

    def serves(self) -> bool:
        with contextlib.suppress(OSError, AssertionError):
            return bool(self.ask("vector(1)"))
        return False

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def under_load() -> Iterator[tuple[ScriptedStack, Prometheus]]:
    """Two sessions that have worked, one approval given, one denied, a budget for the day, and Prometheus."""
    with tempfile.TemporaryDirectory(prefix="pm-prom-") as name:
        folder = Path(name)
        stack = ScriptedStack(folder / "s")
        with stack:
            prometheus = Prometheus(folder, stack.home / "prometheus-targets.json")
            try:
                eventually(prometheus.serves, "Prometheus answers")
                everybody = partial(prometheus.ask, f"count(up == 1) == {len(SERVICES)}")
                eventually(everybody, "each service was scraped before anything happens")
                with stack.recorder() as recorder:
                    work(stack, recorder)
                yield stack, prometheus
            finally:
                prometheus.stop()


def work(stack: ScriptedStack, recorder: Recorder) -> None:
    stack.open("one")
    stack.open("two")
    stack.pointsman("budget", "day", "50", "--node")
    for name, verb in (("one", "approve"), ("two", "deny")):
        stack.pointsman("send", name, "SAY working ;; BASH echo hello > there.txt ;; SAY done")
        waiting = eventually(lambda: stack.pointsman("approvals"), "an approval")
        stack.pointsman(verb, waiting[0]["id"])
        results = f"sessions/{name}/events/result"
        eventually(partial(recorder.all, results), "the turn's end")


def selectors(expression: str) -> set[str]:
    """The metrics that an expression names."""
    return set(METRIC.findall(re.sub(r'"[^"]*"', '""', expression)))


def fill(expression: str) -> str:
    return expression.replace("$node", ".*").replace("$session", "one")


def unserved(expression: str, served: set[str]) -> set[str]:
    """The metrics that it names and nobody serves. ``or vector(0)`` would hide those."""
    return {
        name
        for name in selectors(expression)
        if not {name, re.sub("_(total|bucket|sum|count|info)$", "", name)} & {*served, "up"}
    }


def blank(found: list[dict[str, Any]]) -> bool:
    return all(series["value"][1] == "NaN" for series in found)


def test_every_rule_and_every_panel_finds_what_it_asks_for(
    under_load: tuple[ScriptedStack, Prometheus],
) -> None:
    _, prometheus = under_load

    def something(query: str) -> Callable[[], list[dict[str, Any]]]:
        return lambda: [] if blank(found := prometheus.ask(query)) else found

    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        prometheus.ask(rule["expr"])  # valid
        for metric in selectors(rule["expr"]) - recorded:
            eventually(something(metric), f"{metric}, for {rule.get('alert') or rule['record']}")
    for name in recorded:
        eventually(something(f"{{__name__={json.dumps(name)}}}"), name)
    for board in BOARDS:
        for panel in board.panels:
            for expression, legend in panel.queries:
                assert not unserved(expression, prometheus.served()), (board.title, panel.title)
                found = eventually(
                    something(fill(expression)), f"{board.title}, {panel.title}: {fill(expression)}"
                )
                wanted = {*LEGEND.findall(legend), *panel.columns, *(["session"] * panel.opens_session)}
                assert all(wanted <= series["metric"].keys() for series in found), (panel.title, found)
        variables = json.loads(built(board))["templating"]["list"]
        for query in (variable["query"] for variable in variables if variable["type"] == "query"):
            match = LABEL_VALUES.fullmatch(query)
            assert match, query
            found = prometheus.ask(fill(match["of"]))
            assert found, query
            assert all(match["label"] in series["metric"] for series in found), query


def test_names_and_units_follow_the_conventions(under_load: tuple[ScriptedStack, Prometheus]) -> None:
    stack, prometheus = under_load
    targets = json.loads((stack.home / "prometheus-targets.json").read_text())
    assert {group["labels"]["service"] for group in targets} == set(SERVICES)
    for group in targets:
        with urllib.request.urlopen(f"http://{group['targets'][0]}/metrics", timeout=20) as answer:
            text = answer.read().decode()
        promtool_lint(text)
    series = prometheus.ask('count({job="pointsman"})')
    assert int(series[0]["value"][1]) < 5000


def test_an_ended_session_leaves_no_series(under_load: tuple[ScriptedStack, Prometheus]) -> None:
    """The last of these tests: a thousand of them are in the services' own."""
    stack, prometheus = under_load
    everything = '{session="two"}'
    for kind in ("session", "bridge", "keeper"):
        some = f'{{session="two", __name__=~"pointsman_{kind}_.*"}}'
        eventually(partial(prometheus.ask, some), f"series of a {kind}")
    stack.pointsman("end", "two")
    eventually(lambda: not prometheus.ask(everything), "its series end")
    assert prometheus.ask('{session="one"}')


def promtool_lint(text: str) -> None:
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("pointsman")]
    assert not said, said
