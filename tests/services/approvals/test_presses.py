"""Presses as a broker delivers them: live, retained, cleared, again after a restart, and by nobody known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from bus import messages as m
from bus import topics as t
from services._process.config import load_config
from tests.services.approvals.stand import Run, Stack, settle
from tests.services.approvals.support import fact, user

WALL = user("wall", "device", "critical")
EITHER = pytest.mark.parametrize("verb", ["approve", "deny"])


async def admit(s: Stack, *users: m.BusUser, n: int = 1) -> None:
    """The broker service tells the list of users."""
    told = fact(f"users-{n}", "users", m.BusUsers(users=list(users)))
    service = s.broker.client(service="broker")
    service.publish(t.FACTS, told, producer="broker", owner="approvals")
    await settle()


def replies(s: Stack) -> list[Any]:
    return s.said(t.DEVICE_REPLY, device="wall")


@EITHER
def test_an_empty_press_decides_and_is_answered(run: Run, verb: str) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, WALL)
            await s.ask()
            await trio.sleep(1)
            await s.send(f"devices/wall/{verb}", b"")
            decision = {"approve": "approved", "deny": "denied"}[verb]
            assert replies(s) == [{"ok": True, "approval": "a1", "decision": decision}]
            assert s.answers()[0].decision == decision
            assert s.figure("pointsman_approval_latency_seconds_count", via="device") == 1

    run(test)


@EITHER
@pytest.mark.parametrize("payload", [b"a1", b"{}", b'{"approval":"a1"}'])
def test_a_retained_press_decides_nothing_and_neither_does_its_clearing(
    run: Run, verb: str, payload: bytes
) -> None:
    async def test(s: Stack) -> None:
        await s.send(f"devices/wall/{verb}", payload, retain=True)  # while nobody listened
        async with s.running():
            await admit(s, WALL)
            await s.ask(kind="tool")
            await trio.sleep(5)
            assert s.answers() == replies(s) == []
            await s.send(f"devices/wall/{verb}", b"", retain=True)  # hours later somebody tidies up
            assert s.answers() == []
            assert [reply["error"]["code"] for reply in replies(s)] == ["bad_request"]
            await trio.sleep(3)
            await s.send(f"devices/wall/{verb}", b"")  # now it is a press
            assert len(s.answers()) == 1

    run(test)


@EITHER
def test_the_clearing_of_a_retained_press_that_came_live_decides_nothing(run: Run, verb: str) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, WALL)
            await s.ask("a1")
            await s.ask("a2")
            await trio.sleep(1)
            await s.send(f"devices/wall/{verb}", b"a1", retain=True)
            assert [answer.approval for answer in s.answers()] == ["a1"]
            await trio.sleep(30)
            await s.send(f"devices/wall/{verb}", b"", retain=True)
            await s.send(f"devices/wall/{verb}", b"gone", retain=True)
            await s.send(f"devices/wall/{verb}", b"", retain=True)
            assert {answer.approval for answer in s.answers()} == {"a1"}
            assert [reply["ok"] for reply in replies(s)] == [True, False, False, False]

    run(test)


def test_an_empty_press_while_a_retained_one_stands_decides_nothing_until_it_is_cleared(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, WALL)
            await s.send("devices/wall/approve", b"old", retain=True)
            await s.ask()
            await trio.sleep(5)
            for _ in range(2):
                await s.send("devices/wall/approve", b"")
            assert s.answers() == []
            await s.send("devices/wall/approve", b"", retain=True)
            assert s.answers() == []
            await s.send("devices/wall/approve", b"")
            assert len(s.answers()) == 1

    run(test)


def test_what_stood_before_the_device_was_made_is_known(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await s.send("devices/wall/approve", b"old", retain=True)
            await admit(s, WALL)
            await s.ask()
            await trio.sleep(5)
            await s.send("devices/wall/approve", b"", retain=True)
            assert s.answers() == []

    run(test)


def test_a_press_after_the_brokers_restart_counts_once(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, WALL)
            await s.ask("a1")
            await trio.sleep(1)
            await s.send("devices/wall/approve", b"")
            await s.ask("a2")
            await trio.sleep(1)
        async with s.running():  # the gate was killed, the device sends again what was not acknowledged
            await s.send("devices/wall/approve", b"")
            s.broker.restart()
            await s.send("devices/wall/approve", b"")
            assert {answer.approval for answer in s.answers()} == {"a1"}

    run(test)


@EITHER
@pytest.mark.parametrize("users", [[], [user("wall", "approver")]], ids=["nobody", "no device"])
def test_who_is_no_device_is_not_listened_to(run: Run, verb: str, users: list[m.BusUser]) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, *users)
            await s.ask()
            await trio.sleep(5)
            for payload in (b"", b"a1"):
                await s.send(f"devices/wall/{verb}", payload)
            assert s.answers() == replies(s) == []
            assert [report["code"] for report in s.said(t.ERRORS)] == ["not_allowed"] * 2

    run(test)


@pytest.mark.parametrize("payload", [b"\xff", b"{", b"[" * 10_000, b"x" * 5_000_000, b"null"])
def test_bad_presses_stop_nobody(run: Run, payload: bytes) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, WALL)
            await s.ask()
            await trio.sleep(5)
            await s.send("devices/wall/approve", payload)
            assert s.answers() == []
            assert not replies(s)[0]["ok"]
            await s.send("devices/wall/approve", b"a1")
            assert len(s.answers()) == 1

    run(test)


def test_the_snapshot_of_a_device_stands_follows_and_is_cleared(run: Run) -> None:
    async def test(s: Stack) -> None:
        async with s.running():
            await admit(s, WALL, user("ada"))
            assert s.standing(t.DEVICE_PENDING, device="wall")["count"] == 0
            await s.ask()
            assert s.standing(t.DEVICE_PENDING, device="wall")["oldest_id"] == "a1"
            assert s.standing(t.APPROVAL_TOKEN, id="a1", user="wall") is None
            assert s.standing(t.APPROVAL_TOKEN, id="a1", user="ada")["id"] == "a1"
        await s.send("devices/gone/pending", {"count": 9}, retain=True)
        async with s.running():
            assert s.standing(t.DEVICE_PENDING, device="gone") is None
            assert s.standing(t.DEVICE_PENDING, device="wall")["oldest_id"] == "a1"
            await admit(s, user("ada"), n=2)
            assert s.standing(t.DEVICE_PENDING, device="wall") is None

    run(test)


def test_the_configuration_lowers_a_device_and_lets_it_take_the_oldest(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[approvals]\nauto_approve = []\n[devices.wall]\nmax_level = "low"\noldest = true\n')

    async def test(s: Stack) -> None:
        s.config = load_config(
            {"HOME": str(tmp_path), "POINTSMAN_HOME": str(s.home.path), "POINTSMAN_NODE_NAME": "node",
             "POINTSMAN_CONFIG": str(file)}
        )  # fmt: skip
        async with s.running():
            await admit(s, WALL)
            await s.ask("high", input_json='{"command":"rm -rf /"}')
            for name in ("a1", "a2"):
                await s.ask(name, tool="Read", input_json='{"file_path":"/work/app/a.py"}')
            assert [i["id"] for i in s.standing(t.DEVICE_PENDING, device="wall")["items"]] == ["a1", "a2"]
            await trio.sleep(1)
            await s.send("devices/wall/approve", b"high")
            assert replies(s)[-1]["error"]["code"] == "level_too_high"
            await trio.sleep(2)
            await s.send("devices/wall/approve", b"")
            assert replies(s)[-1]["approval"] == "a1"

    run(test)


def test_a_reload_of_the_configuration_lowers_a_device_at_once(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")

    async def test(s: Stack) -> None:
        s.environ["POINTSMAN_CONFIG"] = str(file)
        async with s.running():
            await admit(s, WALL)
            await s.ask(input_json='{"command":"rm -rf /"}')
            assert s.standing(t.DEVICE_PENDING, device="wall")["count"] == 1
            file.write_text('[devices.wall]\nmax_level = "low"\n')
            await s.send("policy/reload", {"id": "r1"})
            assert s.standing(t.DEVICE_PENDING, device="wall")["count"] == 0
            await s.send("devices/wall/approve", b"a1")
            assert replies(s)[-1]["error"]["code"] == "level_too_high"

    run(test)
