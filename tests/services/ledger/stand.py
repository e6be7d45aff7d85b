"""The ledger on a memory bus, over a real database, and someone who asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing
from prometheus_client import CollectorRegistry, Counter

from bus import messages as m
from bus import topics as t
from bus.memory import MemoryBroker
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import captured_log
from services.ledger.shell import serve
from tests.services.ledger.support import UID, fact_of, report

NODE = "pointsman/node"
BEGIN = datetime(2026, 11, 21, 23, 0, tzinfo=UTC)


class Stand:
    """A broker, the ledger, and someone who asks."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.broker = MemoryBroker()
        self.client = self.broker.client(name="someone")
        self.registry = CollectorRegistry()
        self.log: list[dict[str, Any]] = []

    def context(self) -> Context:
        environ = {"POINTSMAN_HOME": str(self.home), "POINTSMAN_NODE_NAME": "node", "HOME": str(self.home)}
        log, lines = captured_log("ledger")
        self.log = lines
        self.registry = CollectorRegistry()
        return Context(
            service="ledger",
            config=load_config(environ),
            home=Home(self.home),
            bus=self.broker.client(service="ledger"),
            log=log,
            registry=self.registry,
            errors=Counter("pointsman_errors", "x", ["code"], registry=self.registry),
            now=lambda: BEGIN + timedelta(seconds=trio.current_time()),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            context = self.context()
            nursery.start_soon(serve, context)
            await trio.sleep(0.1)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()
        self.broker.drop(context.bus)  # type: ignore[arg-type]  # the broker's own client

    async def fact(self, fact: m.Fact) -> m.Ack:
        before = len(self.broker.said(t.ACKS))
        self.broker.publish(f"{NODE}/facts/ingest/ledger", msgspec.json.encode(fact))
        await trio.sleep(0.1)
        (ack,) = self.broker.said(t.ACKS)[before:]
        return msgspec.json.decode(ack, type=m.Ack)

    async def ask(self, topic: str, command: dict[str, Any]) -> dict[str, Any]:
        self.broker.publish(f"{NODE}/{topic}", msgspec.json.encode(command))
        await trio.sleep(0.1)
        await trio.testing.wait_all_tasks_blocked()
        reply: dict[str, Any] = msgspec.json.decode(self.broker.said(t.REPLIES, id=command["id"])[-1])
        return reply

    def standing(self, session: str = "web") -> dict[str, Any] | None:
        raw = self.broker.standing(t.LEDGER_SESSION, session=session)
        return None if raw is None else msgspec.json.decode(raw)

    def total(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(self.broker.standing(t.LEDGER_TOTAL) or b"{}")
        return found


def with_stand(tmp_path: Path, test: Callable[[Stand], Awaitable[None]], *, threads: bool = False) -> None:
    """In virtual time; in real time where ``threads`` work, which virtual time would not wait for."""

    async def main() -> None:
        with trio.fail_after(120 if threads else 7200):
            await test(Stand(tmp_path))

    trio.run(main, clock=None if threads else trio.testing.MockClock(autojump_threshold=0))


def opened(**more: Any) -> m.Fact:
    data = m.SessionOpened(session="web", cwd="/work/app", kind="managed", **more)
    return fact_of(f"opened-{UID}", "opened", data, BEGIN)


def cost(turn: int, total: str, **more: Any) -> m.Fact:
    return fact_of(f"cost-{turn}", "cost", report(turn, total, **more), BEGIN)
