"""Users come and go: what is kept, what the gate is told, and what is refused with which way out."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

import msgspec
import pytest

from bus import messages as m
from bus.acl import Role, User
from bus.effects import Effect, Post, ReplyTo
from bus.errors import RefusedError
from services.broker.core import Kind
from services.broker.store import MIGRATIONS, Store
from services.broker.users import MAX_USERS, DropUser, Reload, SaveUser, Users, no_rules

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def users(*there: m.BusUser, refusal: str | None = None, place: tuple[str, str] | None = None) -> Users:
    return Users(there, refusal=refusal, password_file=lambda user: f"/home/bus/{user}", place=place)


def told(effects: list[Effect]) -> list[str]:
    """Names that the gate is told."""
    (post,) = [e for e in effects if isinstance(e, Post)]
    assert post.owner == "approvals"
    return [user.user for user in msgspec.json.decode(post.fact.data, type=m.BusUsers).users]


def reply(effects: list[Effect]) -> ReplyTo:
    (found,) = [e for e in effects if isinstance(e, ReplyTo)]
    return found


def test_a_user_is_kept_told_and_let_in_before_the_answer() -> None:
    them = users()
    effects = them.add(m.AddUser(id="c1", user="wall", role="device"), NOW, "s1")
    wall = m.BusUser(user="wall", role="device", max_level="low", since="s1")
    assert [type(e) for e in effects] == [SaveUser, Post, Reload, ReplyTo]
    assert effects[0] == SaveUser(wall)
    assert told(effects) == ["wall"]
    assert reply(effects).result == m.AddedUser(
        user="wall", role="device", username="wall", password_file="/home/bus/wall", max_level="low"
    )
    assert them.of_the_bus() == [User("wall", Role.DEVICE)]
    effects = them.remove(m.RemoveUser(id="c2", user="wall"), NOW, "s2")
    assert [type(e) for e in effects] == [DropUser, Post, Reload, ReplyTo]
    assert told(effects) == []
    assert them.of_the_bus() == []


@pytest.mark.parametrize(
    ("role", "given", "level"),
    [
        ("viewer", None, None),
        ("approver", None, "critical"),
        ("approver", "medium", "medium"),
        ("operator", None, "critical"),
        ("device", "high", "high"),
    ],
)
def test_what_a_user_may_approve_at_most(role: str, given: str | None, level: str | None) -> None:
    command = msgspec.convert({"user": "x", "role": role, "max_level": given}, m.AddUser)
    result = reply(users().add(command, NOW, "s1")).result
    assert result.max_level == level


@pytest.mark.parametrize("name", ["", "A", "a b", "a/b", "+", "#", "-a", "a\n", "x" * 64, "service-x", "é"])
def test_a_name_that_may_not_stand_in_a_topic_is_refused(name: str) -> None:
    with pytest.raises(RefusedError) as error:
        users().add(m.AddUser(user=name, role="viewer"), NOW, "s1")
    assert error.value.code == "bad_name"


@pytest.mark.parametrize("name", ["operator", "timeout", "agent", "ada"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    ada = m.BusUser(user="ada", role="approver", max_level="low", since="s1")
    with pytest.raises(RefusedError) as error:
        users(ada).add(m.AddUser(user=name, role="viewer"), NOW, "s2")
    assert error.value.code == "name_taken"


def test_other_refusals() -> None:
    with pytest.raises(RefusedError, match="a viewer decides nothing"):
        users().add(m.AddUser(user="v", role="viewer", max_level="low"), NOW, "s1")
    with pytest.raises(RefusedError, match="stays"):
        users().remove(m.RemoveUser(user="operator"), NOW, "s1")
    with pytest.raises(RefusedError, match="no user 'x'"):
        users().remove(m.RemoveUser(user="x"), NOW, "s1")
    crowd = [m.BusUser(user=f"u{n}", role="viewer", max_level=None, since="s") for n in range(MAX_USERS)]
    with pytest.raises(RefusedError, match="remove one first"):
        users(*crowd).add(m.AddUser(user="x", role="viewer"), NOW, "s1")


@pytest.mark.parametrize(
    ("kind", "acl", "configured", "way"),
    [
        (Kind.MOSQUITTO, False, False, None),
        (Kind.EXTERNAL, True, False, None),
        (Kind.EXTERNAL, False, False, "set bus.acl = true"),
        (Kind.AMQTT, False, False, "apt-get install mosquitto"),
        (Kind.AMQTT, True, True, "take bus.broker = 'amqtt' out"),
    ],
)
def test_a_broker_without_rules_has_no_further_users(
    kind: Kind, acl: bool, configured: bool, way: str | None
) -> None:
    refusal = no_rules(kind, acl=acl, configured=configured)
    assert (refusal is None) == (way is None)
    ada = m.BusUser(user="ada", role="approver", max_level="low", since="s1")
    them = users(ada, refusal=refusal)
    if way is None:
        assert [user.user for user in them.active()] == ["ada"]
        return
    with pytest.raises(RefusedError) as error:
        them.add(m.AddUser(user="wall", role="device"), NOW, "s2")
    assert error.value.code == "not_allowed"
    assert way in error.value.message
    assert them.active() == []  # from a time with another broker
    assert told([them.told(NOW, "s3")]) == []
    listed = reply(them.list(m.ListUsers(id="c"))).result
    assert [user.user for user in listed["users"]] == ["operator", "ada"]
    assert listed["refused"] == refusal


def test_a_broker_of_somebody_elses_is_told_what_to_allow() -> None:
    result = reply(users(place=("root", "n1")).add(m.AddUser(user="wall", role="device"), NOW, "s1")).result
    assert result.rights == m.UserRights(
        write=["root/n1/devices/wall/approve", "root/n1/devices/wall/deny"],
        read=["root/n1/devices/wall/pending", "root/n1/devices/wall/reply"],
    )


def test_the_store_keeps_them() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for sql in MIGRATIONS:
        db.executescript(sql)
    store = Store(db)
    ada = m.BusUser(user="ada", role="viewer", max_level=None, since="s1")
    bob = m.BusUser(user="bob", role="device", max_level="low", since="s0")
    store.save(SaveUser(ada))
    store.save(SaveUser(bob))
    assert Store(db).users() == [bob, ada]
    store.drop(DropUser("bob"))
    assert store.users() == [ada]
