"""The audit proven, exported and tampered with in every way; the keys rotated while approvals wait."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from bus import topics as t
from services.approvals import audit
from services.approvals.chain import NOTE_EVERY_S
from services.approvals.custody import NOTE
from services.approvals.keys import KEY
from tests.services.approvals.stand import Run, Stack


@contextmanager
def hands_in(s: Stack) -> Iterator[sqlite3.Connection]:
    """Somebody with the sqlite3 program, who also takes the triggers away."""
    with closing(sqlite3.connect(s.home.path / "approvals.sqlite", isolation_level=None)) as db:
        for name in ("audit_fixed", "audit_kept"):
            db.execute(f"DROP TRIGGER IF EXISTS {name}")
        yield db


async def verify(s: Stack, name: str = "v1", **more: str) -> dict[str, Any]:
    await s.send("audit/verify", {"id": name, **more})
    (reply,) = s.said(t.REPLIES, id=name)
    assert reply["ok"], reply
    found: dict[str, Any] = reply["result"]
    return found


async def some(s: Stack) -> None:
    """Six rows."""
    for name in ("a1", "a2"):
        await s.ask(name)
        await s.decide(approval=name, id=f"c-{name}")


def relink(db: sqlite3.Connection, first: int) -> None:
    """Compute the chain anew from a row on, as one would who knows how, and set the head."""
    previous = db.execute("SELECT hash FROM audit WHERE n = ?", (first - 1,)).fetchone()[0]
    n = first - 1
    for n, at, action, approval, data in db.execute(
        "SELECT n, at, action, approval, data FROM audit WHERE n >= ? ORDER BY n", (first,)
    ).fetchall():
        previous = audit.digest(previous, n, at, action, approval, data)
        db.execute("UPDATE audit SET hash = ? WHERE n = ?", (previous, n))
    db.execute("UPDATE audit_head SET n = ?, hash = ?", (n, previous))


def forge(db: sqlite3.Connection) -> None:
    db.execute("UPDATE audit SET data = replace(data, 'operator', 'somebody')")
    relink(db, 2)


def set_back(db: sqlite3.Connection) -> None:
    db.execute("UPDATE audit_head SET (n, hash) = (SELECT n, hash FROM audit WHERE n = 4)")


def cut_and_set_back(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM audit WHERE n > 4")
    set_back(db)


def empty(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM audit")
    db.execute("UPDATE audit_head SET n = 0, hash = zeroblob(32), seal = NULL")


def swap(db: sqlite3.Connection) -> None:
    for old, new in ((2, -1), (3, 2), (-1, 3)):
        db.execute("UPDATE audit SET n = ? WHERE n = ?", (new, old))


def reorder(db: sqlite3.Connection) -> None:
    swap(db)
    relink(db, 2)


def do(sql: str) -> Callable[[sqlite3.Connection], object]:
    return lambda db: db.execute(sql)


TAMPERING: dict[str, Callable[[sqlite3.Connection], object]] = {
    "a changed row": do("UPDATE audit SET data = replace(data, 'approve', 'deny') WHERE n = 2"),
    "a changed time": do("UPDATE audit SET at = '2020-01-01T00:00:00+00:00' WHERE n = 3"),
    "a row missing in the middle": do("DELETE FROM audit WHERE n = 3"),
    "the first row missing": do("DELETE FROM audit WHERE n = 1"),
    "the last row missing": do("DELETE FROM audit WHERE n = (SELECT max(n) FROM audit)"),
    "all rows missing": do("DELETE FROM audit"),
    "two rows swapped": swap,
    "two rows swapped and the chain made anew": reorder,
    "a row added": do("INSERT INTO audit SELECT n + 1, at, action, approval, data, hash FROM audit "
                      "ORDER BY n DESC LIMIT 1"),
    "rows forged and the chain made anew": forge,
    "the end cut off and the head set back": cut_and_set_back,
    "emptied as if it had never been used": empty,
    "the head set back alone": set_back,
    "the seal taken away": do("UPDATE audit_head SET seal = NULL"),
}  # fmt: skip


def test_an_earlier_sealed_head_that_is_put_back_is_found_while_it_runs(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask("a1")
            with hands_in(s) as db:
                kept = db.execute("SELECT n, hash, seal FROM audit_head").fetchone()
            await s.decide()
            with hands_in(s) as db:
                db.execute("DELETE FROM audit WHERE n > ?", (kept[0],))
                db.execute("UPDATE audit_head SET n = ?, hash = ?, seal = ?", kept)
            assert not (await verify(s))["ok"]
            await s.ask("a2")
            found = await verify(s, "v2")
            assert "the head was set back" in found["broken"]["reason"]

    run(test)


@pytest.mark.parametrize("kind", TAMPERING)
@pytest.mark.parametrize("when", ["while it runs", "before a start"])
def test_tampering_is_found_at_once_and_is_never_covered_by_what_comes_after(
    run: Run, kind: str, when: str
) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await some(s)
            assert (await verify(s))["ok"]
            if when == "while it runs":
                with hands_in(s) as db:
                    TAMPERING[kind](db)
                assert not (await verify(s, "v2"))["ok"]
        if when == "before a start":
            with hands_in(s) as db:
                TAMPERING[kind](db)
        for start in range(2):
            async with s.running():
                await s.ask(f"b{start}")
                await s.decide(approval=f"b{start}", id=f"c-b{start}")
                assert s.answers()[-1].decision == "approved"  # the gate goes on
                found = await verify(s, f"w{start}")
                assert (found["ok"], found["broken"] is None) == (False, False)

    run(test)


def copy(source: Path, target: Path) -> None:
    """`sqlite3 SOURCE ".backup TARGET"`"""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as two:
        one.backup(two)


def test_an_older_copy_that_is_put_back_is_found_and_told(run: Run, tmp_path: Path) -> None:
    async def test(s: Stack) -> None:
        file = s.home.path / "approvals.sqlite"
        async with s.running():
            await some(s)
        copy(file, tmp_path / "backup")
        async with s.running():
            await s.ask("a3")
            await trio.sleep(2 * NOTE_EVERY_S)  # not once: who wakes first at that moment is not said
            noted = (s.home.secrets / NOTE).read_text()
        copy(tmp_path / "backup", file)
        async with s.running():
            found = await verify(s)
            assert not found["ok"]
            assert "an older copy put back" in found["broken"]["reason"]
            assert [e["action"] for e in s.said(t.APPROVAL_EVENTS)] == ["audit_broken"]
            assert any("audit" in str(line["event"]) for line in s.lines if line["level"] == "error")
        assert stat.S_IMODE((s.home.secrets / NOTE).stat().st_mode) == 0o600
        assert noted != (s.home.secrets / NOTE).read_text()

    run(test)


def test_a_head_that_was_noted_elsewhere_is_compared(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await some(s)
            early = (await verify(s))["head"]
            await s.ask("a3")
            found = await verify(s, "v2", head=early)
            assert found["ok"]
            assert found["head"].split(":")[0] == str(found["rows"])
            other = early.replace(early[-4:], "0000" if early[-4:] != "0000" else "1111")
            assert "another than it was" in (await verify(s, "v3", head=other))["broken"]["reason"]
            late = f"99:{early.split(':')[1]}"
            assert "row 99 was there once" in (await verify(s, "v4", head=late))["broken"]["reason"]
            await s.send("audit/verify", {"id": "v5", "head": "nonsense"})
            assert s.said(t.REPLIES, id="v5")[0]["error"]["code"] == "bad_request"

    run(test)


def test_the_export_comes_in_pages_and_holds_every_row_as_it_was_hashed(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running() as shell:
            await some(s)
            rows: list[dict[str, Any]] = []
            while True:
                await s.send("audit/export", {"id": f"e{len(rows)}", "after": len(rows), "limit": 4})
                (reply,) = s.said(t.REPLIES, id=f"e{len(rows)}")
                rows += reply["result"]["rows"]
                if not reply["result"]["rows"]:
                    break
            assert reply["result"]["last"] == len(rows) == 6
            previous = audit.GENESIS
            for row in rows:
                text = msgspec.json.encode(row["data"], order="sorted").decode()
                previous = audit.digest(previous, row["n"], row["at"], row["action"], row["approval"], text)
                assert previous.hex() == row["hash"]
            assert previous == shell.store.audit_head()[1]
            kept = shell.store._db.execute("SELECT count(*) FROM commands WHERE id LIKE 'e%'").fetchone()
            assert kept == (0,)  # nobody's export fills the store

    run(test)


def test_a_page_is_never_too_large_to_be_sent(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            for n in range(4):
                await s.ask(f"a{n}", tool="AskUserQuestion", kind="question",
                            input_json='{"questions":[{"question":"q"}]}')  # fmt: skip
                await s.decide(approval=f"a{n}", id=f"c{n}", answers={"q": "é" * 120_000})
            after = 0
            while after < 12:
                await s.send("audit/export", {"id": f"e{after}", "after": after, "limit": 1000})
                (reply,) = s.said(t.REPLIES, id=f"e{after}")
                after = reply["result"]["rows"][-1]["n"]

    run(test)


# ── The keys ─────────────────────────────────────────────────────────────────────────────────────────────


def keys(s: Stack) -> list[str]:
    return (s.home.secrets / KEY).read_text().split()


def token(s: Stack, approval: str) -> str:
    found: str = s.standing(t.APPROVAL_TOKEN, id=approval, user="operator")["token"]
    return found


def test_a_rotation_loses_nothing_that_waits(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask("a1")
            await s.ask("a2")
            before = {name: token(s, name) for name in ("a1", "a2")}
            (old,) = keys(s)
            await s.send("keys/rotate", {"id": "r1"})
            assert s.said(t.REPLIES, id="r1")[0]["result"] == {"waiting": 2}
            assert keys(s)[1:] == [old]
            assert all(token(s, name) != before[name] for name in before)
            await s.ask("a3")
            await s.decide(token=before["a1"])  # read before the rotation
            assert s.answers()[-1].decision == "approved"
        async with s.running():
            assert len(keys(s)) == 2
            await s.decide("deny", approval="a2", id="c2")  # read after it
            assert s.answers()[-1].decision == "denied"
            await s.decide("deny", approval="a3", id="c3")
            assert len(keys(s)) == 1
            assert old not in keys(s)
            assert stat.S_IMODE((s.home.secrets / KEY).stat().st_mode) == 0o600
            found = await verify(s)
            assert found["ok"], found
            assert "keys_rotated" in [e["action"] for e in s.said(t.APPROVAL_EVENTS)]
            assert not any(key in str(s.lines) for key in [old, *keys(s)])

    run(test)


def test_a_rotation_now_makes_what_was_read_before_void(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.ask()
            before = token(s, "a1")
            await s.send("keys/rotate", {"id": "r1", "now": True})
            assert len(keys(s)) == 1
            await s.decide(token=before)
            assert s.said(t.REPLIES, id="c1")[0]["error"]["code"] == "bad_token"
            await s.decide(id="c2")
            assert s.answers()[0].decision == "approved"
            assert (await verify(s))["ok"]

    run(test)


@pytest.mark.parametrize("waits", [True, False])
def test_a_crash_within_a_rotation_leaves_what_fits(run: Run, waits: bool) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await some(s)
            if waits:
                await s.ask("a3")
        (old,) = keys(s)
        (s.home.secrets / KEY).write_text(f"{'n' * 43}\n{old}\n")  # and then it was killed
        async with s.running():
            assert (await verify(s))["ok"]
            assert keys(s) == ["n" * 43, old] if waits else ["n" * 43]
        async with s.running():
            assert (await verify(s, "v2"))["ok"]

    run(test)


def test_a_lost_key_is_noted_and_the_chain_goes_on(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await some(s)
        (s.home.secrets / KEY).unlink()
        async with s.running() as shell:
            assert (await verify(s))["ok"]
            last = list(shell.store.audit_rows())[-1]
            assert (last.action, "the key was not there" in last.data) == ("keys", True)

    run(test)


def test_another_key_than_the_one_that_sealed_is_found(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await some(s)
        (s.home.secrets / KEY).write_text("x" * 43)
        async with s.running():
            assert not (await verify(s))["ok"]

    run(test)


def test_a_seal_under_a_key_that_was_given_up_is_none(run: Run) -> None:
    """Keys are rotated because one was stolen."""

    async def test(s: Stack) -> None:
        async with s.running():
            await some(s)
            (stolen,) = keys(s)
            await s.send("keys/rotate", {"id": "r1", "now": True})
            with hands_in(s) as db:
                head = db.execute("SELECT n, hash FROM audit_head").fetchone()
                db.execute("UPDATE audit_head SET seal = ?", (audit.Seal([stolen.encode()]).of(*head),))
            await s.ask("a3")
            assert "set by another than the gate" in (await verify(s))["broken"]["reason"]

    run(test)
