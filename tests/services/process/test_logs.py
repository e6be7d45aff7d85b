"""The log: lines that a machine reads, warnings for people, and no secret in either."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services._process.logs import LINE_BYTES, Log, StderrSink, captured_log, log_to, open_log
from services._process.output import Output
from services._process.redact import MASK, Redactor, is_secret_name

# Without brackets: a secret that overlaps with the mask itself cannot be told from it.
SECRETS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="[]"), min_size=4, max_size=40
).filter(lambda text: text not in MASK and text.strip() == text)


def strings(value: object) -> Iterator[str]:
    """Every text in a line: keys and values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    max_leaves=10,
)


def test_a_line_has_time_service_level_event_and_fields(tmp_path: Path) -> None:
    log = open_log(tmp_path, "ledger").bind(session="one")
    log.info("cost booked", usd=0.25, at=datetime(2026, 1, 1, tzinfo=UTC), path=tmp_path)
    log.debug("not written unless asked for")
    log.close()
    (line,) = [json.loads(text) for text in (tmp_path / "ledger.log").read_text().splitlines()]
    assert line.pop("at").endswith("Z")
    assert line == {
        "service": "ledger", "level": "info", "event": "cost booked", "session": "one", "usd": 0.25,
        "at_": "2026-01-01T00:00:00+00:00", "path": str(tmp_path),
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "ledger.log").stat().st_mode) == 0o600


def test_warnings_and_errors_are_said_shortly_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = open_log(tmp_path, "ledger")
    log.info("quiet")
    log.warning("slow", seconds=3, text="a\nb" * 500)
    try:
        raise ValueError("odd")
    except ValueError:
        log.exception("broken", where="here:1")
    log.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("ledger: warning: slow (seconds=3 text=a ba b")
    assert len(first) < 300
    assert second == "ledger: error: broken (where=here:1 error=ValueError('odd'))"
    assert "Traceback" in (tmp_path / "ledger.log").read_text()


def test_what_a_full_disk_did_not_take_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.log"
    path.symlink_to("/dev/full")
    log = open_log(tmp_path, "ledger")
    log.info("lost")
    log.close()
    log.info("after the end")


def pipe_log() -> tuple[Log, int]:
    """A log that goes to supervisord, and the end that supervisord reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    return log_to(Output(writer), "ledger"), reader


def read(reader: int) -> bytes:
    """All that is there."""
    found = b""
    while True:
        try:
            chunk = os.read(reader, 1 << 20)
        except BlockingIOError:
            return found
        if not chunk:
            return found
        found += chunk


def test_a_pipe_that_nobody_reads_costs_whole_lines_and_their_number_is_told() -> None:
    log, reader = pipe_log()
    for number in range(500):
        log.info("line", number=number, pad="x" * (number * 37 % 9000))
    found = read(reader)
    log.info("line", number=500)
    log.info("line", number=501)
    lines = [json.loads(line) for line in (found + read(reader)).splitlines()]
    kept = [line["number"] for line in lines if line["event"] == "line"]
    (lost,) = [line for line in lines if line["event"] == "lines of this log were lost"]
    assert kept[-2:] == [500, 501]
    assert kept == sorted(kept)
    assert len(kept) + lost["lines"] == 502
    assert (lost["service"], lost["level"]) == ("ledger", "warning")
    log.close()
    os.close(reader)


def test_a_pipe_whose_reader_is_gone_ends_nothing() -> None:
    log, reader = pipe_log()
    os.close(reader)
    log.info("lost")
    log.close()


def test_no_line_holds_the_marks_between_which_supervisord_is_spoken_to() -> None:
    log, reader = pipe_log()
    text = "\\<!--XSUPERVISOR:BEGIN-->{}<!--XSUPERVISOR:END-->"
    log.info(text, **{text: [text]})
    raw = read(reader)
    assert b"<!--" not in raw
    line = json.loads(raw)
    assert (line["event"], line[text]) == (text, [text])
    log.close()
    os.close(reader)


def test_a_line_that_is_too_long_keeps_the_ends_of_its_fields(tmp_path: Path) -> None:
    log = open_log(tmp_path, "ledger")
    log.info("long", session="one", text="a" + "\0" * 100_000 + "z", parts=list(range(20_000)))
    log.close()
    raw = (tmp_path / "ledger.log").read_bytes()
    assert len(raw) < LINE_BYTES
    line = json.loads(raw)
    assert (line["session"], line["text"][0], line["text"][-1], line["bytes"] > 100_000) == (
        "one",
        "a",
        "z",
        True,
    )
    assert line["parts"].startswith("[0,1,2,")


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    StderrSink(stream)({"service": "x", "level": "error", "event": "y"})


@pytest.mark.parametrize(
    "name",
    ["token", "bus_token", "apiKey", "X-Api-Key", "Authorization", "PASSWORD", "clientSecret", "cookie"],
)
def test_telling_names(name: str) -> None:
    assert is_secret_name(name)
    assert Redactor().fields({name: "value"}) == {name: MASK}
    assert Redactor().fields({"a": [{name: ["value"]}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize("name", ["tokens", "output_tokens", "password_file", "authorized", "keys", "monkey"])
def test_harmless_names(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("the key sk-ant-api03-AbC_d-9 was used", "the key [redacted] was used"),
        ("Authorization: Bearer abc.def-123", "Authorization: [redacted]"),
        ("sent bearer abc.def now", "sent bearer [redacted] now"),
        ("mqtt://operator:pa55word@host:1883/", "mqtt://operator:[redacted]@host:1883/"),
        ("ANTHROPIC_API_KEY=abcdef ls", "ANTHROPIC_API_KEY=[redacted] ls"),
        ('{"access_token": "a b\\"c", "n": 1}', '{"access_token": [redacted], "n": 1}'),
        ("no secrets in here: tokens=5", "no secrets in here: tokens=5"),
    ],
)
def test_shapes(text: str, kept: str) -> None:
    assert Redactor().text(text) == kept


@given(SECRETS, JSON)
def test_a_registered_secret_is_never_written(secret: str, around: object) -> None:
    log, lines = captured_log()
    log.secret(secret)
    log.bind(bound=f"x{secret}y").info(f"event {secret}", a=[around, {secret: secret}], b=f"{around}{secret}")
    written = {key: value for key, value in lines[0].items() if key not in {"at", "service", "level"}}
    assert [text for text in strings(written) if secret in text] == []


@given(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=8, max_size=30), st.text())
def test_anthropic_keys_are_never_written(tail: str, around: str) -> None:
    log, lines = captured_log()
    key = f"sk-ant-{tail}"
    log.info("x", a=f"{around} {key} {around}", b={"c": [key.encode()]})
    assert key not in json.dumps(lines[0])


@given(JSON)
def test_whatever_is_logged_can_be_written(value: object) -> None:
    log, lines = captured_log()
    log.info("x", value=value, odd=object())
    json.dumps(lines[0], allow_nan=True)
