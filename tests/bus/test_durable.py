"""The three tables that make commands and facts safe (bus/durable.py)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus import messages as m
from bus.durable import INBOX_KEPT_S, REMEMBER_S, WINDOW, Mailbox

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


@pytest.fixture
def mailbox() -> Mailbox:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    Mailbox.create_tables(connection)
    return Mailbox(connection)


def fact(number: int) -> m.Fact:
    return m.Fact(
        id=f"f{number}", type="withdrawn", at=NOW, data=msgspec.Raw(b'{"approval":"a","reason":"r"}')
    )


def sent(mailbox: Mailbox, *, again: bool = False, owner: str = "approvals") -> list[tuple[str, str | None]]:
    found = [msgspec.json.decode(raw, type=m.Fact) for raw in mailbox.due(owner, again=again)]
    return [(f.id, f.after if isinstance(f.after, str) else None) for f in found]


def test_facts_are_handed_over_once_and_again_on_request_in_order(mailbox: Mailbox) -> None:
    for number in range(3):
        mailbox.post("approvals", fact(number))
    assert sent(mailbox) == [("f0", None), ("f1", "f0"), ("f2", "f1")]
    assert sent(mailbox) == []
    mailbox.post("approvals", fact(3))
    assert sent(mailbox) == [("f3", "f2")]
    mailbox.acknowledged("approvals", m.Ack(ids=["f0"]), NOW)
    assert sent(mailbox, again=True) == [("f1", None), ("f2", "f1"), ("f3", "f2")]


def test_owners_have_their_own_order(mailbox: Mailbox) -> None:
    mailbox.post("approvals", fact(0))
    mailbox.post("ledger", fact(1))
    mailbox.post("approvals", fact(2))
    assert sorted(mailbox.owners()) == ["approvals", "ledger"]
    assert sent(mailbox) == [("f0", None), ("f2", "f0")]
    assert sent(mailbox, owner="ledger") == [("f1", None)]


def test_posting_the_same_id_again_changes_nothing(mailbox: Mailbox) -> None:
    mailbox.post("approvals", fact(0))
    mailbox.post("approvals", fact(0))
    assert mailbox.waiting() == 1


def test_a_flood_goes_out_window_by_window(mailbox: Mailbox) -> None:
    for number in range(WINDOW + 10):
        mailbox.post("approvals", fact(number))
    assert len(sent(mailbox)) == WINDOW
    assert sent(mailbox) == []
    mailbox.acknowledged("approvals", m.Ack(ids=[f"f{n}" for n in range(7)]), NOW)
    assert [i for i, _ in sent(mailbox)] == [f"f{n}" for n in range(WINDOW, WINDOW + 7)]


def test_a_refused_fact_is_set_aside_and_told_once(mailbox: Mailbox) -> None:
    mailbox.post("approvals", fact(0))
    refused = m.Refused(id="f0", code="bad_request", message="no")
    assert mailbox.waits("approvals", "f0")
    assert mailbox.acknowledged("approvals", m.Ack(ids=[], refused=[refused]), NOW) == [refused]
    assert mailbox.acknowledged("approvals", m.Ack(ids=[], refused=[refused]), NOW) == []
    assert mailbox.waiting() == 0
    assert not mailbox.waits("approvals", "f0")


def test_an_owner_answers_for_good(mailbox: Mailbox) -> None:
    refused = m.Refused(id="f1", code="name_taken", message="there is one")
    mailbox.keep("tmux", "f0", NOW)
    mailbox.refuse("tmux", refused, NOW)
    assert mailbox.kept("tmux", "f0")
    assert mailbox.refusal("tmux", "f0") is None
    assert mailbox.kept("tmux", "f1")
    assert mailbox.refusal("tmux", "f1") == refused
    assert not mailbox.kept("ingest", "f0")
    assert mailbox.producers() == ["tmux"]


def test_a_fact_waits_for_the_one_before_it(mailbox: Mailbox) -> None:
    second = msgspec.structs.replace(fact(1), after="f0")
    assert mailbox.in_order("tmux", fact(0))
    assert not mailbox.in_order("tmux", second)
    mailbox.keep("tmux", "f0", NOW)
    assert mailbox.in_order("tmux", second)


def test_a_command_acts_once_and_is_answered_the_same(mailbox: Mailbox) -> None:
    assert mailbox.seen("c1", b"x") is None
    mailbox.begin("c1", b"x", NOW)
    seen = mailbox.seen("c1", b"x")
    assert seen is not None
    assert (seen.same_content, seen.reply) == (True, None)
    mailbox.answer(m.Reply(id="c1", ok=True, result=1), NOW)
    seen = mailbox.seen("c1", b"y")
    assert seen is not None
    assert (seen.same_content, seen.reply) == (False, b'{"id":"c1","ok":true,"result":1}')


def test_ids_are_forgotten_when_they_may(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.durable.KEPT_ANYWAY", 1)
    mailbox.begin("newer", b"x", NOW + timedelta(seconds=1))
    mailbox.keep("tmux", "newer", NOW + timedelta(seconds=1))
    mailbox.begin("c1", b"x", NOW)
    mailbox.keep("tmux", "f0", NOW)
    mailbox.refuse("tmux", m.Refused(id="f1", code="busy", message=""), NOW)
    mailbox.forget_old(NOW + timedelta(seconds=REMEMBER_S - 1))
    assert mailbox.seen("c1", b"x") is not None
    mailbox.forget_old(NOW + timedelta(seconds=REMEMBER_S + 1))
    assert mailbox.seen("c1", b"x") is None
    assert mailbox.kept("tmux", "f0")
    mailbox.forget_old(NOW + timedelta(seconds=INBOX_KEPT_S + 1))
    assert not mailbox.kept("tmux", "f0")
    assert mailbox.refusal("tmux", "f1") is None
    assert mailbox.seen("newer", b"x") is not None, "the newest stays: the clock may be wrong"
    assert mailbox.kept("tmux", "newer")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["post", "ack first", "ack all", "refuse first", "due", "again", "restart"])))
def test_every_fact_is_handed_over_once_in_order_and_names_one_that_waits(steps: list[str]) -> None:
    """Against a list. What is remembered between the calls says the same as the table does."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    Mailbox.create_tables(connection)
    box = Mailbox(connection)
    posted = 0
    waiting: list[str] = []
    handed: set[str] = set()
    for step in [*steps, "due"]:
        if step == "post":
            box.post("approvals", fact(posted))
            waiting.append(f"f{posted}")
            posted += 1
        elif step in ("ack first", "refuse first") and not handed.intersection(waiting[:1]):
            continue  # nobody answers what was never said
        elif step == "ack first":
            box.acknowledged("approvals", m.Ack(ids=[waiting.pop(0)]), NOW)
        elif step == "ack all":
            box.acknowledged("approvals", m.Ack(ids=[each for each in waiting if each in handed]), NOW)
            waiting = [each for each in waiting if each not in handed]
        elif step == "refuse first":
            told = m.Refused(id=waiting.pop(0), code="bad_request", message="no")
            assert box.acknowledged("approvals", m.Ack(ids=[], refused=[told]), NOW) == [told]
        elif step in ("due", "again", "restart"):
            if step == "restart":
                box = Mailbox(connection)
            if step != "due":
                handed.clear()
            due = sent(box, again=step == "again")
            assert [fact_id for fact_id, _ in due] == [each for each in waiting if each not in handed]
            for fact_id, after in due:
                before = waiting[: waiting.index(fact_id)]
                dealt_with = (None, f"f{int(fact_id[1:]) - 1}")
                assert after == before[-1] if before else after in dealt_with
            handed.update(waiting)
        assert box.waiting() == len(waiting)


BEFORE = """
CREATE TABLE outbox (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, owner TEXT NOT NULL, payload BLOB NOT NULL,
  posted_at TEXT NOT NULL, UNIQUE (owner, id)
);
CREATE TABLE inbox (
  id TEXT NOT NULL, producer TEXT NOT NULL, kept_at TEXT NOT NULL, PRIMARY KEY (producer, id)
) WITHOUT ROWID;
CREATE INDEX inbox_kept_at ON inbox (kept_at);
INSERT INTO inbox VALUES ('a0', 'approvals', '2026-11-21');
"""


def test_the_tables_of_an_earlier_version_are_made_leaner_and_lose_nothing() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(BEFORE)
    waiting = [(7 + n, f"f{n}", "approvals", msgspec.json.encode(fact(n)), "") for n in range(2)]
    connection.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", waiting)
    for _ in range(2):
        Mailbox.create_tables(connection)
    box = Mailbox(connection)
    box.post("approvals", fact(2))
    assert [fact_id for fact_id, _ in sent(box, again=False)] == ["f0", "f1", "f2"]
    assert box.kept("approvals", "a0")
    made = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    assert not any("AUTOINCREMENT" in sql for _, sql in made)
    assert "inbox_kept_at" not in dict(made)


@pytest.mark.parametrize(
    "step", [sqlite3.SQLITE_ALTER_TABLE, sqlite3.SQLITE_CREATE_TABLE, sqlite3.SQLITE_DROP_TABLE]
)
def test_killed_while_they_are_made_leaner_they_are_the_earlier_version_s(tmp_path: Path, step: int) -> None:
    path = tmp_path / "store.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as first:
        first.executescript(BEFORE)
        row = (7, "f0", "approvals", msgspec.json.encode(fact(0)), "")
        first.execute("INSERT INTO outbox VALUES (?, ?, ?, ?, ?)", row)
        first.set_authorizer(lambda did, *_: sqlite3.SQLITE_DENY if did == step else sqlite3.SQLITE_OK)
        with pytest.raises(sqlite3.DatabaseError):
            Mailbox.create_tables(first)
    with closing(sqlite3.connect(path, isolation_level=None)) as second:
        named = second.execute("SELECT name FROM sqlite_master WHERE name LIKE 'outbox%'").fetchall()
        assert named == [("outbox",)]
        assert second.execute("SELECT n, id FROM outbox").fetchall() == [(7, "f0")]
        Mailbox.create_tables(second)
        assert sent(Mailbox(second)) == [("f0", None)]


def test_a_number_that_is_taken_is_no_fact_that_was_posted_before(mailbox: Mailbox) -> None:
    """Nobody else numbers facts. If somebody did, ours would not vanish without a word."""
    mailbox._db.execute("INSERT INTO outbox VALUES (1, 'other', 'approvals', x'', '')")
    with pytest.raises(sqlite3.IntegrityError):
        mailbox.post("approvals", fact(0))


def test_numbers_grow_also_when_the_outbox_has_become_empty(mailbox: Mailbox) -> None:
    """Else a fact would have the number of one that was handed over, and would wait for the next resend."""
    for number in range(WINDOW + 2):  # more than are remembered: the table is asked
        mailbox.post("approvals", fact(number))
    first = [fact_id for fact_id, _ in sent(mailbox, again=False)]
    mailbox.acknowledged("approvals", m.Ack(ids=first), NOW)
    rest = [fact_id for fact_id, _ in sent(mailbox, again=False)]
    mailbox.acknowledged("approvals", m.Ack(ids=rest), NOW)
    assert mailbox.waiting() == 0
    mailbox.post("approvals", fact(WINDOW + 2))
    assert [fact_id for fact_id, _ in sent(mailbox, again=False)] == [f"f{WINDOW + 2}"]
