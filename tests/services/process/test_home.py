"""The home: private, written whole, and refused where others could change it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from services._process.errors import HomeError
from services._process.home import Home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_looking_makes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep/home")
    assert home.endpoints() == {}
    assert not home.is_default
    with pytest.raises(
        HomeError, match=r"no password for the bus user 'operator'.*has Pointsman been started"
    ):
        home.bus_password("operator")
    assert list(tmp_path.iterdir()) == []


def test_directories_are_private(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        home = Home(tmp_path / "deep/home")
        made = [home.secrets, home.logs, home.run, home.sessions]
        assert [mode(path) for path in [home.path, *made]] == [0o700] * 5
        assert home.store("ledger") == home.path / "ledger.sqlite"
    finally:
        os.umask(previous)


def test_secrets_are_private_and_stay(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    path = home.write_secret("bus/operator", "hunter2")
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert home.bus_password("operator") == "hunter2"
    made = home.read_or_make_secret("approvals.key")
    assert len(made) >= 43
    assert home.read_or_make_secret("approvals.key") == made
    assert home.read_or_make_secret("other", lambda: "own") == "own"
    assert list(home.secrets.rglob(".*")) == []


def test_two_who_ask_at_once_get_the_same_secret(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(home.read_or_make_secret("key"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert len(set(found)) == 1


def test_endpoints_are_merged(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.update_endpoints("bus", {"host": "127.0.0.1", "port": 1883})
    home.update_endpoints("metrics", {"ledger": 9184})
    home.update_endpoints("bus", {"ws_port": 9001, "port": 1884})
    home.update_endpoints("metrics", {"ledger": None, "tmux": 9182})
    expected = {"bus": {"host": "127.0.0.1", "port": 1884, "ws_port": 9001}, "metrics": {"tmux": 9182}}
    assert Home(home.path).endpoints() == expected


def test_many_writers_lose_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    threads = [
        threading.Thread(target=home.update_endpoints, args=("metrics", {f"s{n}": n})) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert home.endpoints() == {"metrics": {f"s{n}": n for n in range(16)}}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"bus": 1}', b"\xff"])
def test_a_broken_endpoints_file_is_written_anew(tmp_path: Path, content: bytes) -> None:
    home = Home(tmp_path)
    (tmp_path / "endpoints.json").write_bytes(content)
    assert home.endpoints() == {}
    home.update_endpoints("bus", {"port": 1})
    assert home.endpoints() == {"bus": {"port": 1}}


def test_a_home_that_others_may_write_into_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(HomeError, match=r"others may write into the home.*chmod go-w"):
        Home(tmp_path)


def test_a_home_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 4711)
    with pytest.raises(HomeError, match=r"belongs to .*POINTSMAN_HOME"):
        Home(tmp_path)


def test_a_file_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="is not a directory"):
        Home(tmp_path / "file")
    with pytest.raises(HomeError, match="cannot be made"):
        Home(tmp_path / "file/home").logs  # noqa: B018  # asking for it makes it


def test_a_socket_must_fit(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert home.tmux_socket == home.path / "tmux.sock"
    with pytest.raises(HomeError, match=r"too long for a socket.*shorter POINTSMAN_HOME"):
        Home(tmp_path / ("x" * 120)).socket("tmux.sock")
