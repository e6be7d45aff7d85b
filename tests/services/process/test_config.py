"""The configuration: the contract's defaults, every way to set a key, and what each mistake says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services._process.config import TO_THE_BUS, default_home, host_slug, load_config
from services._process.config_keys import SECTIONS, Config
from services._process.errors import ConfigError

CONTRACT = {
    "bus.broker": "auto", "bus.host": "127.0.0.1", "bus.port": 1883, "bus.ws_port": 9001,
    "bus.root": "pointsman",
    "bus.username": None, "bus.password_file": None, "bus.tls_ca": None, "bus.acl": False,
    "bus.listen": None, "bus.tls_cert": None, "bus.tls_key": None,
    "ingest.host": "127.0.0.1", "ingest.port": 6180, "ingest.hooks_port": 6182,
    "gateway.host": "127.0.0.1", "gateway.port": 6181,
    "metrics.host": "127.0.0.1", "metrics.base_port": 9180,
    "sessions.keep_ended_s": 86400, "agent.claude": "claude",
    "approvals.timeout_s": 60, "approvals.timeout_question_s": 0, "approvals.timeout_plan_s": 0,
    "approvals.timeout_low_s": None, "approvals.timeout_medium_s": None, "approvals.timeout_high_s": None,
    "approvals.timeout_critical_s": None, "approvals.auto_approve": ("Read", "Glob", "Grep"),
    "approvals.max_permission_mode": "acceptEdits",
    "approvals.rules": (),
    "ledger.default_budget_usd": 10.0, "ledger.resume_when_reset": False,
    "watchdog.memory_budget": 0.5, "watchdog.idle_s": 3600, "watchdog.max_sessions": 10,
}  # fmt: skip


def value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


def write(environ: dict[str, str], text: str) -> Path:
    path = Path(environ["HOME"]) / ".config/pointsman/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistake(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(environ)
    return str(caught.value)


def test_defaults_are_those_of_the_contract(environ: dict[str, str]) -> None:
    config = load_config(environ)
    keys = {f"{name}.{f.name}" for name, section in SECTIONS.items() for f in msgspec.structs.fields(section)}
    assert keys == {*CONTRACT, "node.name", "node.home", "ledger.database"}
    assert {key: value(config, key) for key in CONTRACT} == CONTRACT
    assert config.node.home == Path(environ["HOME"]) / ".local/state/pointsman"
    assert config.ledger.database == config.node.home / "ledger.sqlite"
    assert config.node.name == host_slug()
    assert config.given == frozenset()
    assert config.file is None


def test_an_empty_environment_will_do() -> None:
    assert default_home({}).is_absolute()


@pytest.mark.parametrize(
    ("key", "toml", "text", "expected"),
    [
        ("node.name", '"left"', "left", "left"),
        ("bus.broker", '"amqtt"', "amqtt", "amqtt"),
        ("bus.port", "1900", "1900", 1900),
        ("bus.acl", "true", "true", True),
        ("bus.tls_ca", '"/ca.pem"', "/ca.pem", Path("/ca.pem")),
        ("agent.claude", '"/opt/claude"', "/opt/claude", "/opt/claude"),
        ("sessions.keep_ended_s", "60", "60", 60.0),
        ("approvals.timeout_high_s", "0", "0", 0.0),
        ("approvals.max_permission_mode", '"plan"', "plan", "plan"),
        ("ledger.default_budget_usd", "2.5", "2.5", 2.5),
        ("ledger.default_budget_usd", '"unlimited"', "unlimited", None),
        ("ledger.resume_when_reset", "false", "0", False),
        ("watchdog.memory_budget", "0.25", "0.25", 0.25),
        ("watchdog.memory_budget", "1", "1", 1.0),
        ("watchdog.memory_budget", '"4GiB"', "4 gib", 4 * 2**30),
        ("watchdog.memory_budget", '"1.5 GB"', "1.5GB", 1_500_000_000),
        ("watchdog.memory_budget", "4294967296", "4294967296", 2**32),
    ],
)
def test_a_key_is_set_by_the_file_or_the_environment(
    environ: dict[str, str], key: str, toml: str, text: str, expected: object
) -> None:
    section, _, name = key.partition(".")
    by_environment = {**environ, f"POINTSMAN_{section}_{name}".upper(): text}
    config = load_config(by_environment)
    assert (value(config, key), type(value(config, key))) == (expected, type(expected))
    assert config.given == {key}
    path = write(environ, f"[{section}]\n{name} = {toml}\n")
    config = load_config(environ)
    assert (value(config, key), type(value(config, key))) == (expected, type(expected))
    assert config.given == {key}
    assert config.file == path


def test_the_environment_goes_before_the_file(environ: dict[str, str]) -> None:
    write(environ, "[bus]\nport = 1\n[approvals]\nauto_approve = []\n")
    config = load_config({**environ, "POINTSMAN_BUS_PORT": "2", "POINTSMAN_BUS_WS_PORT": ""})
    assert (config.bus.port, config.bus.ws_port) == (2, 9001)
    assert config.approvals.auto_approve == ()


def test_the_home_moves_the_ledger_with_it(environ: dict[str, str]) -> None:
    config = load_config({**environ, "POINTSMAN_HOME": "~/other"})
    assert config.node.home == Path(environ["HOME"]) / "other"
    assert config.ledger.database == config.node.home / "ledger.sqlite"


def test_other_peoples_variables_are_left_alone(environ: dict[str, str]) -> None:
    foreign = (
        "NODE",
        "SESSION",
        "SESSION_UID",
        "TEST_CACHE",
        "SCRIPTED_X",
        "BUSINESS",
        "APPROVE_ALL",
        "BUSS",
    )
    config = load_config({**environ, **{f"POINTSMAN_{name}": "?" for name in foreign}})
    assert (config.given, config.unread) == (frozenset(), ())


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("POINTSMAN_APROVALS_TIMEOUT_S", "POINTSMAN_APPROVALS_TIMEOUT_S"),
        ("POINTSMAN_BSU_PORT", "POINTSMAN_BUS_PORT"),
        ("POINTSMAN_SESSION_KEEP_ENDED_S", "POINTSMAN_SESSIONS_KEEP_ENDED_S"),
    ],
)
def test_a_misspelt_section_in_a_variable_is_told_and_nothing_else(
    environ: dict[str, str], variable: str, meant: str
) -> None:
    config = load_config({**environ, variable: "hunter2"})
    section = variable.split("_")[1].lower()
    assert config.unread == (f"{variable}: there is no section {section!r}; did you mean {meant}?",)
    assert config == msgspec.structs.replace(load_config(environ), unread=config.unread)


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("[bus]\nport = 70000", ["bus.port = 70000 in ", "config.toml", "a whole number from 1 to 65535"]),
        ("[bus]\nport = true", ["bus.port = True", "a whole number"]),
        ('[bus]\nport = "1883"', ["bus.port = '1883'", "a whole number"]),
        ("[bus]\nprot = 1", ["bus.prot = 1", "no such key", "did you mean bus.port?", "ws_port"]),
        ("[buss]\nport = 1", ["[buss]", "no such section", "did you mean bus?", "watchdog"]),
        ("bus = 3", ["bus = 3", "must be a table, [bus]"]),
        ('[bus]\npassword = "hunter2"', ["bus.password = [redacted]", "did you mean bus.password_file?"]),
        ('[bus]\nbroker = "emqx"', ["bus.broker = 'emqx'", "one of auto, mosquitto, amqtt, external"]),
        ('[bus]\nroot = "a/#"', ["bus.root = 'a/#'", "a slug"]),
        ('[bus]\nhost = "300.1.1.1"', ["bus.host", "a host name or IP address"]),
        ('[bus]\nhost = "0.0.0.0"', ["bus.host = '0.0.0.0'", "must be a loopback address", "bus.listen"]),
        ('[bus]\nlisten = "8883"', ["bus.listen = '8883'", "host:port"]),
        ('[bus]\nlisten = "::1:8883"', ["bus.listen", "in brackets"]),
        ('[bus]\nlisten = "0.0.0.0:8883"', ["bus.listen", "needs TLS", "bus.tls_cert and bus.tls_key"]),
        ('[bus]\nlisten = "0.0.0.0:8883"\ntls_cert = "/c"', ["needs TLS", "set bus.tls_key as well"]),
        (
            '[bus]\nbroker = "amqtt"\nlisten = "0.0.0.0:8883"\ntls_cert = "/c"\ntls_key = "/k"',
            ["bus.listen", "must be left out with bus.broker = 'amqtt'"],
        ),
        ('[bus]\ntls_key = "/k"', ["bus.tls_key", "bus.listen, which is not set"]),
        ('[bus]\nbroker = "external"\nusername = "me"', ["bus.username = 'me'", "bus.password_file"]),
        ('[bus]\nbroker = "external"\npassword_file = "/p"', ["bus.password_file", "bus.username"]),
        ("[bus]\nport = 1\nws_port = 1", ["bus.ws_port = 1", "must differ from bus.port"]),
        ("[ingest]\nport = 7\n[gateway]\nport = 7", ["gateway.port = 7", "differ from ingest.port"]),
        ('[node]\nname = "Left"', ["node.name = 'Left'", "a slug"]),
        ('[node]\nhome = "here"', ["node.home = 'here'", "an absolute path"]),
        ("[metrics]\nbase_port = 65530", ["metrics.base_port = 65530", "from 1 to 65515"]),
        ("[approvals]\ntimeout_s = nan", ["approvals.timeout_s = nan", "seconds, 0 or more"]),
        ("[approvals]\ntimeout_s = -1", ["approvals.timeout_s = -1", "seconds, 0 or more"]),
        ("[approvals]\ntimeout_s = inf", ["approvals.timeout_s = inf", "seconds"]),
        ('[approvals]\nauto_approve = "Read"', ["approvals.auto_approve = 'Read'", "a list of names"]),
        ("[approvals]\nauto_approve = [1]", ["approvals.auto_approve = [1]", "a list of names"]),
        ('[approvals]\nmax_permission_mode = "yolo"', ["max_permission_mode = 'yolo'", "acceptEdits"]),
        ("[approvals]\ntimeout_sever_s = 1", ["did you mean approvals.timeout_s"]),
        ("[ledger]\ndefault_budget_usd = -0.1", ["default_budget_usd = -0.1", 'or "unlimited"']),
        ("[watchdog]\nmemory_budget = 0", ["watchdog.memory_budget = 0", "a share of the memory"]),
        ("[watchdog]\nmemory_budget = 1.5", ["watchdog.memory_budget = 1.5", "4GiB"]),
        ('[watchdog]\nmemory_budget = "4 GX"', ["watchdog.memory_budget = '4 GX'", "4GiB"]),
        ('[watchdog]\nmemory_budget = "4 B"', ["watchdog.memory_budget = '4 B'", "less than 1 MiB"]),
        ("[watchdog]\nmax_sessions = 0", ["watchdog.max_sessions = 0", "from 1 to"]),
        ("[bus\n", ["config.toml is not valid TOML"]),
    ],
)
def test_a_mistake_in_the_file_names_key_value_and_what_is_allowed(
    environ: dict[str, str], toml: str, parts: list[str]
) -> None:
    write(environ, toml)
    text = mistake(environ)
    assert [part for part in parts if part not in text] == [], text
    assert "hunter2" not in text


@pytest.mark.parametrize(
    ("variable", "text", "parts"),
    [
        ("POINTSMAN_BUS_PORT", "x", ["bus.port = 'x' from POINTSMAN_BUS_PORT", "from 1 to 65535"]),
        ("POINTSMAN_BUS_PROT", "1", ["bus.prot = '1' from POINTSMAN_BUS_PROT", "did you mean bus.port?"]),
        ("POINTSMAN_BUS_ACL", "maybe", ["bus.acl = 'maybe'", "true or false"]),
        ("POINTSMAN_HOME", "rel", ["node.home = 'rel' from POINTSMAN_HOME", "an absolute path"]),
        ("POINTSMAN_APPROVALS_AUTO_APPROVE", "Read", ["a list can only be set in the file"]),
        ("POINTSMAN_WATCHDOG_IDLE_S", "1e99", ["watchdog.idle_s = 1e+99", "seconds"]),
        ("POINTSMAN_CONFIG", "/nowhere.toml", ["/nowhere.toml (from POINTSMAN_CONFIG) is not there"]),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(
    environ: dict[str, str], variable: str, text: str, parts: list[str]
) -> None:
    said = mistake({**environ, variable: text})
    assert [part for part in parts if part not in said] == [], said


def test_two_homes_are_a_mistake(environ: dict[str, str]) -> None:
    assert "set one" in mistake({**environ, "POINTSMAN_HOME": "/a", "POINTSMAN_NODE_HOME": "/b"})


def test_all_mistakes_are_told_at_once(environ: dict[str, str]) -> None:
    write(environ, "[bus]\nport = 0\nroot = 1\n[nope]\n")
    assert len(mistake({**environ, "POINTSMAN_NODE_NAME": "?"}).splitlines()) == 4


def test_mistakes_outside_of_what_is_needed_pass_and_are_told(environ: dict[str, str]) -> None:
    write(
        environ,
        "[bus]\nport = 1885\n[approvals]\ntimeoutt = 5\ntimeout_s = -1\n[ledgr]\n[ingest]\nport = 1885\n",
    )
    config = load_config(environ, needed=TO_THE_BUS)
    about = ("approvals.timeoutt = 5", "approvals.timeout_s = -1", "[ledgr]", "ingest.port = 1885")
    assert [said for said, key in zip(config.mistakes, about, strict=True) if not said.startswith(key)] == []
    assert (config.bus.port, config.approvals.timeout_s) == (1885, 60)
    assert mistake(environ).splitlines() == list(config.mistakes)


@pytest.mark.parametrize(
    "toml", ["[bus]\nprot = 1", "[buss]\nport = 1", "[nod]", '[bus]\nhost = "0.0.0.0"', "bus = 3", "[bus\n"]
)
def test_mistakes_in_what_is_needed_do_not_pass(environ: dict[str, str], toml: str) -> None:
    write(environ, f"{toml}\n")
    with pytest.raises(ConfigError):
        load_config(environ, needed=TO_THE_BUS)


def test_a_file_that_cannot_be_read_says_so(environ: dict[str, str]) -> None:
    write(environ, "").unlink()
    (Path(environ["HOME"]) / ".config/pointsman/config.toml").mkdir()
    assert "cannot be read: Is a directory" in mistake(environ)


@pytest.mark.parametrize(
    ("kind", "level", "seconds"),
    [
        ("tool", "low", 60), ("tool", "high", 5), ("tool", "critical", None), ("tool", "unheard", None),
        ("question", "high", None), ("plan", "high", 9),
    ],
)  # fmt: skip
def test_timeouts(environ: dict[str, str], kind: str, level: str, seconds: float | None) -> None:
    write(environ, "[approvals]\ntimeout_high_s = 5\ntimeout_critical_s = 0\ntimeout_plan_s = 9\n")
    assert load_config(environ).approvals.timeout_for(kind, level) == seconds


def test_the_memory_budget_in_bytes(environ: dict[str, str]) -> None:
    assert load_config(environ).watchdog.memory_budget_bytes(1000) == 500
    by_size = {**environ, "POINTSMAN_WATCHDOG_MEMORY_BUDGET": "2GiB"}
    assert load_config(by_size).watchdog.memory_budget_bytes(1000) == 2**31


def test_the_listening_address(environ: dict[str, str]) -> None:
    write(environ, '[bus]\nlisten = "[::]:8883"\ntls_cert = "/c"\ntls_key = "/k"\n')
    assert load_config(environ).bus.listen_address == ("::", 8883)


@given(st.text())
def test_every_host_name_becomes_a_slug(name: str) -> None:
    slug = host_slug(name)
    assert load_config({"POINTSMAN_NODE_NAME": slug, "HOME": "/nowhere"}).node.name == slug


VARIABLES = [
    f"POINTSMAN_{name}_{f.name}".upper()
    for name, section in SECTIONS.items()
    for f in msgspec.structs.fields(section)
]


def loaded(environ: dict[str, str]) -> Config | str:
    """The configuration, or what the error says."""
    try:
        return load_config(environ)
    except ConfigError as error:
        return str(error)


@given(st.dictionaries(st.sampled_from(VARIABLES), st.text() | st.integers().map(str) | st.floats().map(str)))
def test_any_environment_gives_a_configuration_or_our_error(variables: dict[str, str]) -> None:
    """Either it is taken, and nothing else changes; or the error names a key that was set."""
    plain = {"HOME": "/nowhere"}
    config, usual = loaded({**plain, **variables}), load_config(plain)
    if isinstance(config, str):
        keys = [name.lower().replace("pointsman_", "", 1).replace("_", ".", 1) for name in variables]
        assert any(key in config for key in keys)
        return
    assert 1 <= config.bus.port <= 65535
    for name, section in SECTIONS.items():
        for f in msgspec.structs.fields(section):
            if f"POINTSMAN_{name}_{f.name}".upper() not in variables:
                found, expected = (getattr(getattr(c, name), f.name) for c in (config, usual))
                assert found == expected, f"{name}.{f.name}"


def test_devices_have_a_table_each(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "devices.toml"
    environ["POINTSMAN_CONFIG"] = str(file)
    file.write_text('[devices.wall]\nmax_level = "medium"\noldest = true\n[devices.phone]\n')
    found = load_config(environ).devices
    assert {name: (d.max_level, d.oldest) for name, d in found.items()} == {
        "wall": ("medium", True),
        "phone": ("critical", False),
    }
    file.write_text('[devices.wall]\nlevel = "low"\n[devices.Up]\n[devices]\nx = 1\n[device.wall]\n')
    with pytest.raises(ConfigError) as error:
        load_config(environ)
    for said in ("devices.wall.level", "[devices.Up]", "devices.x = 1", "[device]", "devices"):
        assert said in str(error.value)
