from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.files import Place, below, lines, projects, start_of, stated, transcript_files
from services.ledger.model import Use
from services.ledger.transcripts import BrokenLineError, Call, merge, read_line


def line(
    message: str = "msg_1", request: str | None = "req_1", output: int = 5, **more: Any
) -> dict[str, Any]:
    usage = {
        "input_tokens": 10, "output_tokens": output, "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 5},
    }  # fmt: skip
    return {
        "type": "assistant", "timestamp": "2026-11-20T21:28:07.140Z", "sessionId": "c1", "cwd": "/work",
        "message": {"id": message, "model": "claude-opus-5-5", "usage": usage, "content": []},
        **({} if request is None else {"requestId": request}), **more,
    }  # fmt: skip


def read(document: object) -> Call | None:
    return read_line(json.dumps(document).encode())


def test_a_call() -> None:
    assert read(line()) == Call(
        "msg_1/req_1",
        1_795_210_087_140,
        "claude-opus-5-5",
        Use(0, 10, 5, 3, 7, 2, 5),
        0,
        False,
        "c1",
        "/work",
        None,
    )


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "user", "message": {"usage": {"input_tokens": 1}}},
        {"type": "assistant"},
        {"type": "assistant", "message": {"content": "usage"}},
        line() | {"message": {"id": "m", "usage": None}},
        line()
        | {"message": {"id": "m", "model": "<synthetic>", "usage": {"input_tokens": 0, "output_tokens": 0}}},
    ],
)
def test_lines_that_tell_of_no_call(document: dict[str, Any]) -> None:
    assert read(document) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{}garbage", b"nan", b"[" * 100_000,
        *(
            json.dumps(document).encode()
            for document in (
                line(timestamp=None), line(timestamp="yesterday"), line(timestamp="2026-11-20T21:28:07"),
                line(timestamp=7), line(message=""), line(output=-1), line(output=10**12),
                line() | {"message": {"id": "m", "usage": "many"}},
                line() | {"message": {"id": 7, "usage": {}}},
            )
        ),
    ],
)  # fmt: skip
def test_broken_lines(raw: bytes) -> None:
    with pytest.raises(BrokenLineError):
        read_line(raw)


NAMES = st.sampled_from(["type", "message", "usage", "id", "timestamp", "model"])
DOCUMENTS = st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(NAMES, inner))


@given(st.binary(max_size=300) | DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_nothing_else_is_ever_raised(raw: bytes) -> None:
    with contextlib.suppress(BrokenLineError):
        read_line(raw)


def test_a_message_without_ids_is_known_by_its_line() -> None:
    found = read(line(message="", request=None, uuid="u1"))
    assert found is not None
    assert found.key == "-u1/"


def test_the_largest_telling_counts_and_the_last_among_equals() -> None:
    tellings = [
        read(line(output=n, timestamp=f"2026-11-20T21:28:0{i}Z")) for i, n in enumerate([1, 60, 60, 2])
    ]
    (call,) = merge(t for t in tellings if t).values()
    assert (call.use.output, call.at % 60_000) == (60, 0)
    other = read(line(message="msg_2"))
    assert other is not None
    assert len(merge([call, other])) == 2


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────


PART = st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b""))


@given(st.lists(PART, max_size=30), PART)
def test_every_line_once_from_any_place(parts: list[bytes], last: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "t.jsonl"
        path.write_bytes(b"".join(part + b"\n" for part in parts) + last)
        found = list(lines(path))
        assert [one.data for one in found if one.whole] == parts
        assert [one.data for one in found if not one.whole] == ([last] if last else [])
        for position in [one.end for one in found if one.whole]:
            assert [o for o in found if o.end > position] == list(lines(path, position))


def test_gigantic_lines_are_left_out_in_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"a\n" + b"x" * 3_000_000 + b"\nb\n" + b"y" * 3_000_000)
    found = [(one.data, one.whole) for one in lines(path, max_line=2_000_000)]
    assert found == [(b"a", True), (None, True), (b"b", True), (None, False)]


def test_a_file_is_read_on_or_again(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    assert start_of(path, None) is None
    path.write_bytes(b"one\n")
    inode = path.stat().st_ino
    assert start_of(path, None) == (0, Place(inode, 4))
    assert start_of(path, Place(inode, 4)) is None
    path.write_bytes(b"one\ntwo\n")
    assert start_of(path, Place(inode, 4)) == (4, Place(inode, 8))
    assert start_of(path, Place(inode, 99)) == (0, Place(inode, 8))  # it was cut
    assert start_of(path, Place(inode + 1, 4)) == (0, Place(inode, 8))  # it was replaced


def test_only_the_conversations_own_transcript_is_believed(tmp_path: Path) -> None:
    root = tmp_path / "claude/projects"
    own = root / "-work/c1.jsonl"
    own.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c1.jsonl").touch()
    (tmp_path / "home").symlink_to(tmp_path / "claude")
    assert stated(root, str(own), "c1") == own, "it need not be there yet"
    assert stated(tmp_path / "home/projects", str(own), "c1") == tmp_path / "home/projects/-work/c1.jsonl"
    assert stated(root, str(tmp_path / "home/projects/-work/c1.jsonl"), "c1") == own
    for path in (
        str(own.with_name("c2.jsonl")), str(root / "-work/sub/c1.jsonl"), str(root / "-work/../c1.jsonl"),
        str(tmp_path / "elsewhere/c1.jsonl"), "/etc/passwd", "c1.jsonl", "", "/c1.jsonl", "a\0/c1.jsonl",
        f"{root}/../projects.other/-work/c1.jsonl",
    ):  # fmt: skip
        assert stated(root, path, "c1") is None, path


def test_where_transcripts_are(tmp_path: Path) -> None:
    root = projects({"CLAUDE_CONFIG_DIR": str(tmp_path / "own")}, tmp_path)
    assert root == tmp_path / "own/projects"
    assert projects({}, tmp_path) == tmp_path / ".claude/projects"
    made = [
        root / "-work-a-b/c1.jsonl",
        root / "-work-a-b/c1/subagents/agent-7.jsonl",
        root / "-work-a-b/agent-8.jsonl",
    ]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert transcript_files(root, "/work/a.b", "c1") == made
    assert transcript_files(root, "/elsewhere", "c1") == made  # found by its name
    assert transcript_files(root, "/work/a.b", "c2") == [made[2]]
    assert transcript_files(root, "/work/a.b", "../c1") == []
    assert transcript_files(root, "/", "c1", str(made[0])) == made
    assert transcript_files(root, "/work/a.b", "c1", "/etc/passwd") == made, "not where it is said to be"
    (tmp_path / "link.jsonl").symlink_to(made[0])
    assert list(below([str(root), str(tmp_path / "link.jsonl"), str(tmp_path / "gone")])) == sorted(made)


def test_half_a_sign_hides_no_cost() -> None:
    """A model that writes half an emoji into a tool's input would otherwise be cheaper."""
    assert read(line(toolInput="\ud83d")) == read(line())
