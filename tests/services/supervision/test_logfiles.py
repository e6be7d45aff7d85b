"""What supervisord's log files are with us inside: the same class, on real files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor import loggers

from services._process.home import Home
from services.supervision import logfiles


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture(autouse=True)
def losses(home: Home, monkeypatch: pytest.MonkeyPatch) -> logfiles.Losses:
    for owner, name in ((loggers, "RotatingFileHandler"), (loggers.Handler, "handleError")):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back at the end
    return logfiles.install(home)


@pytest.fixture
def log(losses: logfiles.Losses) -> Iterator[Any]:
    yield from opened("ledger.log", 100)


def opened(name: str, max_bytes: int) -> Iterator[Any]:
    """As supervisord opens it."""
    logger = loggers.getLogger()
    loggers.handle_file(logger, name, "%(message)s", rotating=True, maxbytes=max_bytes, backups=2)
    yield logger
    logger.close()


def there(home: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(home.logs.iterdir())}


def test_lines_go_to_the_home_and_files_are_rotated_and_private(home: Home, log: Any) -> None:
    umask = os.umask(0)
    try:
        for number in range(7):
            log.info(b"%d" % number + b"x" * 58 + b"\n")
    finally:
        os.umask(umask)
    names = ["ledger.log", "ledger.log.1", "ledger.log.2"]
    assert {name: text[::60] for name, text in there(home).items()} == dict(
        zip(names, (b"6", b"45", b"23"), strict=True)
    )
    assert {stat.S_IMODE((home.logs / name).stat().st_mode) for name in names} == {0o600}


def test_a_line_is_never_torn_by_rotation(home: Home, log: Any) -> None:
    log.info(b"x" * 150)
    log.info(b"y\nz\n")
    log.info(b"next\n")
    assert there(home) == {"ledger.log": b"next\n", "ledger.log.1": b"x" * 150 + b"y\nz\n"}


def test_what_a_killed_process_left_half_is_ended(home: Home, log: Any) -> None:
    log.info(b"half")
    for successors in opened("ledger.log", 100):
        successors.info(b"whole\n")
    assert there(home) == {"ledger.log": b"half\nwhole\n"}


@pytest.mark.parametrize("how", ["moved", "deleted", "directory deleted"])
def test_a_file_that_is_gone_is_begun_anew(home: Home, log: Any, tmp_path: Path, how: str) -> None:
    log.info(b"one\n")
    file = home.logs / "ledger.log"
    file.rename(tmp_path / "moved") if how == "moved" else file.unlink()
    if how == "directory deleted":
        home.logs.rmdir()
    log.info(b"two\n")
    assert there(home) == {"ledger.log": b"two\n"}
    if how == "moved":
        assert (tmp_path / "moved").read_bytes() == b"one\n"


def test_a_signal_begins_a_new_file_at_once(home: Home, log: Any, tmp_path: Path) -> None:
    (home.logs / "ledger.log").rename(tmp_path / "moved")
    for handler in log.handlers:
        handler.reopen()  # as supervisord does on SIGUSR2
    assert there(home) == {"ledger.log": b""}


def test_one_that_another_cuts_goes_on_at_its_beginning(home: Home, log: Any) -> None:
    log.info(b"x" * 120 + b"\n")  # a second stream would have rotated: the file was opened anew since
    log.info(b"one\n")
    os.truncate(home.logs / "ledger.log", 0)  # logrotate's copytruncate
    log.info(b"two\n")
    assert there(home)["ledger.log"] == b"two\n"


def test_a_full_disk_costs_lines_which_are_counted_and_told_once(
    home: Home, log: Any, losses: logfiles.Losses, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home.logs / "ledger.log"
    file.unlink()
    file.symlink_to("/dev/full")
    for _ in range(3000):  # more than is ever kept in memory
        log.info(b"lost\n")
    for handler in log.handlers:
        handler.reopen()
    said = capsys.readouterr().err
    assert (
        said == f"supervisord: {file} cannot be written: [Errno 28] No space left on device; lines are lost\n"
    )
    file.unlink()
    log.info(b"room again\n")
    assert there(home) == {"ledger.log": b"room again\n"}
    assert losses.lines == 3000


def test_where_it_cannot_even_be_opened_a_service_starts_all_the_same(
    home: Home, losses: logfiles.Losses, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.logs / "ledger.log").mkdir()
    for log in opened("ledger.log", 100):
        log.info(b"lost\n")
        assert losses.lines == 1
        assert "ledger.log cannot be written: [Errno 21] Is a directory" in capsys.readouterr().err
        (home.logs / "ledger.log").rmdir()
        log.info(b"kept\n")
    assert there(home) == {"ledger.log": b"kept\n"}


def test_one_that_cannot_be_rotated_goes_on(
    home: Home, log: Any, losses: logfiles.Losses, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.logs / "ledger.log.1").mkdir()
    for number in range(5):
        log.info(b"%d" % number + b"x" * 58 + b"\n")
    assert "Is a directory" in capsys.readouterr().err
    assert b"".join((home.logs / f"ledger.log{end}").read_bytes()[::60] for end in (".1", "")) == b"01234"
    assert losses.lines == 0
