"""The real CLI, ingest's real core and the real ledger in one process, without a bus: what an agent says goes
into ingest's core as its journal would, the facts that come of it into the ledger, and the transcripts are
read from where the CLI puts them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from bus import bridge_wire as bw
from bus import messages as m
from services.ingest.model import SendLine
from services.ledger.database import Database
from services.ledger.files import projects, transcript_files
from services.ledger.watch import Watch
from tests.services.ingest.support import UID, Play, created
from tests.services.ledger.support import World
from tests.support.cli_versions import claude_path
from tests.support.messages_api import MessagesApi
from tests.support.real_cli import DEADLINE_S, STDIO_ARGS, StdioAgent, clean_env

WAIT_S = 3 * DEADLINE_S
OURS = {"opened", "cost", "conversation", "unreported"}


class RealSession:
    """One session of the real CLI. Each `start` is its next agent process."""

    def __init__(self, version: str, root: Path, api: MessagesApi, database: Database | None = None) -> None:
        self.version = version
        self.api = api
        self._forgotten: set[str] = set()  # messages that a killed agent had no time to write down
        self.home, self.cwd = root / "home", root / "work"
        self.home.mkdir()
        self.cwd.mkdir()
        (self.cwd / "note").write_text("a note\n")
        self.env = clean_env(self.home, api.url)
        self.root = projects({}, self.home)
        self.play = Play(root / "ingest.sqlite")
        self.play.now = datetime.now(UTC)
        self.world = World(database=database, default_budget_usd=None)
        self.agent: StdioAgent
        self._stack = ExitStack()
        self._told = self._seen = self._sent = self._asked = 0
        self.play.fact(created(cwd=str(self.cwd), agent_version=version))
        self.process = 0

    def __enter__(self) -> RealSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # the agent

    def start(self, *args: str, resume: str | None = None) -> None:
        self.process += 1
        more = [*args, *(("--resume", resume) if resume else ())]
        command = [claude_path(self.version)]
        made = StdioAgent(
            command, env=self.env, cwd=self.cwd, args=(*STDIO_ARGS, "--include-partial-messages", *more)
        )
        self.agent = self._stack.enter_context(made)
        self.play.journal, self._seen, self._sent = b"", 0, 0
        self.play.done.clear()
        self.play.now = datetime.now(UTC)
        self.play.fact(m.AgentStarted(process=self.process, resume=resume))
        self.play.connect(process=self.process)
        self.until(lambda: self.play.record.baseline and self.play.record.initialized)

    def gone(self, *, kill: bool = False) -> None:
        """The process ends, in good order or killed, and its frames are read to the end."""
        if kill:
            self.agent.process.kill()
        else:
            self.agent.close_stdin()
        self.agent.wait_exit(WAIT_S)
        self._forgotten |= self._unwritten()
        self.pump()
        said = bw.Exit(process=self.process, code=None, size=len(self.play.journal))
        self.play.act(self.play.core.agent_gone(self.play.number, said, self.play.now))
        self.play.fact(m.AgentExited(process=self.process, exit_code=None, reason="gone", final=False))
        self.pump()

    def turn(self, text: str) -> None:
        """A prompt, and everything up to its result. What the agent asks is denied."""
        before = self.play.record.results
        self.prompt(text)
        self.until(lambda: self._denied() and self.play.record.results > before)

    def _denied(self) -> bool:
        for request_id, asked in list(self.play.record.questions.items()):
            if asked.answered is None:
                answer = m.Answer(
                    approval=asked.approval, process=self.process, request_id=request_id, decision="denied",
                    message="no", input_json="{}", interrupt=False,
                )  # fmt: skip
                self.play.fact(answer)
        return True

    def prompt(self, text: str) -> None:
        self._asked += 1
        command = m.Prompt(id=f"p{self._asked}", text=text)
        self.play.act(self.play.core.prompt(command, "one", self.play.now))
        self.pump()

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            self.pump()
            assert time.monotonic() < deadline, [json.dumps(f)[:200] for f in self.agent.frames[-20:]]
            time.sleep(0.01)

    def pump(self) -> None:
        """Carry frames, lines and facts across."""
        self.play.now = max(self.play.now, datetime.now(UTC))
        frames = self.agent.frames[self._seen : self.agent.mark()]
        self._seen += len(frames)
        if frames:
            self.play.say(*frames)
        for effect in [e for e in self.play.done if isinstance(e, SendLine)]:
            if effect.n > self._sent and self.agent.process.poll() is None:
                self._sent = effect.n
                self.agent.send_raw(effect.data.encode() + b"\n")
        for fact in self.play.post_log[self._told :]:
            self._told += 1
            if fact.type in OURS:
                self.world.now = self.play.now
                self.world.fact(fact)

    # the witness

    def _unwritten(self) -> set[str]:
        """What was billed and stands in no transcript (yet)."""
        texts = [path.read_text() for path in self.root.rglob("*.jsonl")]
        billed = [bill["message_id"] for bill in self.api.bills if not bill["probe"] and not bill["aborted"]]
        return {name for name in billed if not any(name in text for text in texts)}

    def settle(self) -> None:
        """Once the agent has written its transcripts: read them, as the ledger does, until all is settled."""
        self.until(lambda: self._unwritten() <= self._forgotten)
        watch = Watch(
            self.world.ledger.witness,
            read=self.world.ledger.read,
            root=self.root,
            place=self.world.evidence.place,
            act=self.world.act,
            now=lambda: max(self.play.now, datetime.now(UTC)),
            broken=lambda _count: None,
            refused=lambda uid, path: pytest.fail(f"a transcript of {uid} was refused: {path}"),
        )
        deadline = time.monotonic() + WAIT_S
        while self.world.ledger.witness.due():
            for uid in self.world.ledger.witness.due():
                watch.read_now(uid)
            assert time.monotonic() < deadline, "the witness did not come to an end"
            time.sleep(0.05)

    def transcripts(self) -> list[Path]:
        return transcript_files(self.root, str(self.cwd), self.play.record.conversation)

    @property
    def cost(self) -> m.LedgerSession:
        return self.world.session("one")

    def said(self, subtype: str, **fields: Any) -> bool:
        """Whether the agent has said such a system frame."""
        want = {"subtype": subtype, **fields}
        return any(all(f.get(k) == v for k, v in want.items()) for f in self.agent.select("system"))

    @property
    def beyond(self) -> int:
        """What was booked that the killed agent had no time to write into its transcript."""
        return sum(lost.beyond for lost in self.world.evidence.lost())

    @property
    def spent(self) -> int:
        account = self.world.ledger.account(UID)
        assert account is not None
        return account.all.use.cost
