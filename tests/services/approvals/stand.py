"""The service on a bus in memory and a virtual clock, and what is asked of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
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
from services.approvals.shell import Shell
from tests.services.approvals.support import START, UID, fact, question

Run = Callable[[Callable[["Stack"], Awaitable[None]]], None]


class Stack:
    """A broker, a home, and the service as often as it is started."""

    def __init__(self, path: Path) -> None:
        self.home = Home(path / "home")
        self.environ = {
            "HOME": str(path), "POINTSMAN_HOME": str(path / "home"), "POINTSMAN_NODE_NAME": "node"
        }  # fmt: skip
        self.config = load_config(self.environ)
        self.file = path / ".config/pointsman/config.toml"
        self.broker = MemoryBroker()
        self.ingest = self.broker.client(service="ingest")
        self.ingest.subscribe(t.ACKS)
        self.ahead = timedelta()  # how far somebody has set the wall clock
        self.lines: list[dict[str, object]] = []

    def now(self) -> datetime:
        return START + timedelta(seconds=trio.current_time()) + self.ahead

    def configure(self, text: str) -> None:
        """What stands in the configuration file."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text)
        self.config = load_config(self.environ)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Shell]:
        """The service; leaving is kill -9: nothing is said or tidied."""
        log, self.lines = captured_log()
        self.registry = CollectorRegistry()
        bus = self.broker.client(service="approvals")
        context = Context(
            service="approvals",
            config=self.config,
            home=self.home,
            bus=bus,
            log=log,
            registry=self.registry,
            errors=Counter("pointsman_errors", "errors", ["code"], registry=self.registry),
            now=self.now,
        )
        shell = Shell(context, self.environ)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shell.run)
            await settle()
            yield shell
            nursery.cancel_scope.cancel()
        bus.down()

    async def ask(self, approval: str = "a1", **more: Any) -> None:
        q = question(approval, **more)
        self.ingest.publish(
            t.FACTS, fact(f"question-{approval}", "question", q), producer="ingest", owner="approvals"
        )
        await settle()

    async def tell(self, name: str, data: m.Payload, fact_id: str) -> None:
        self.ingest.publish(t.FACTS, fact(fact_id, name, data), producer="ingest", owner="approvals")
        await settle()

    async def decide(self, decision: str = "approve", approval: str = "a1", **more: Any) -> None:
        """As mosquitto_pub would, with the token that stands on the bus."""
        standing = self.standing(t.APPROVAL_TOKEN, id=approval, user="operator")
        token = standing["token"] if standing else ""
        await self.send(
            f"approvals/{approval}/decision", {"id": "c1", "decision": decision, "token": token, **more}
        )

    async def send(self, topic: str, payload: Any, *, retain: bool = False) -> None:
        raw = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
        self.broker.publish(f"pointsman/node/{topic}", raw, retain=retain)
        await settle()

    def standing(self, row: t.Topic, **values: str) -> Any:
        found = self.broker.standing(row, "node", **values)
        return None if found is None else msgspec.json.decode(found)

    def said(self, row: t.Topic, **values: str) -> list[Any]:
        return [msgspec.json.decode(raw) for raw in self.broker.said(row, "node", **values) if raw]

    def answers(self) -> list[m.Answer]:
        """What ingest got, sent again or not."""
        raws = self.broker.said(t.FACTS, "node", producer="approvals", owner="ingest")
        facts = [msgspec.json.decode(raw, type=m.Fact) for raw in raws]
        return [msgspec.json.decode(f.data, type=m.Answer) for f in facts]

    def figure(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def ask(s: Stack, verb: str, **fields: Any) -> Any:
    """A command of the policy: its result, or its error."""
    number = len(s.broker.log)
    await s.send(f"policy/{verb}", {"id": f"p{number}", **fields})
    (reply,) = s.said(t.REPLIES, id=f"p{number}")
    return reply["result"] if reply["ok"] else reply["error"]


async def judged(s: Stack, command: str = "make", request_id: str = "h1") -> str:
    """What is said to a tool call: a verdict, or the answer that denies it."""
    before = len(s.answers())
    call = {
        "uid": UID, "session": "web", "process": 1, "request_id": request_id, "kind": "tool", "tool": "Bash",
        "tool_use_id": f"toolu_{request_id}", "agent_id": None, "input_json": f'{{"command":"{command}"}}',
        "cwd": "/work/app", "permission_mode": "acceptEdits", "auto_approve": [],
    }  # fmt: skip
    await s.send("internal/approvals/judge", call)
    if len(s.answers()) > before:
        return s.answers()[-1].decision
    return str(s.said(t.TOOL_VERDICT)[-1]["verdict"])
