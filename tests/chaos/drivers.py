"""The users: each a thread with a client of its own and a row of choices that the seed gives it."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from tests.chaos.client import Client
from tests.chaos.evidence import Promise

REPLY_S = 120.0  # a command that is not answered for so long after the attacks is lost
MAX_QUEUED = 3  # prompts that a session has before it; more would only make the end longer


class Driver:
    """``run`` until ``ended``; ``calm``: the attacks are over, and everything shall come to rest.

    Before that no reply is too late: on a busy machine, what is killed every few seconds may hardly come up.
    """

    def __init__(self, client: Client, chance: random.Random) -> None:
        self.client = client
        self.calm = threading.Event()
        self.chance = chance
        self.said: Counter[str] = Counter()
        self.promises: list[Promise] = []
        self.interrupted: set[str] = set()  # sessions whose turns it may have ended

    def run(self, ended: threading.Event) -> None:
        raise NotImplementedError

    def promise(self, number: int, session: str, text: str) -> bool:
        """Prompt, and remember what was replied. Returns whether it was accepted."""
        promise = Promise(number, session, text, None)
        self.promises.append(promise)
        reply = self.ask(f"sessions/{session}/prompt", {"text": text})
        if reply is not None:
            promise.accepted = reply["ok"]
            promise.code = None if reply["ok"] else reply["error"]["code"]
        return promise.accepted is True

    def wait(self, mean_s: float, ended: threading.Event) -> None:
        ended.wait(self.chance.expovariate(1 / mean_s))

    def ask(self, topic: str, payload: Mapping[str, Any]) -> dict[str, Any] | None:
        reply = self.client.ask(topic, payload, REPLY_S, self.calm)
        verb = topic.rsplit("/", 1)[-1]
        code = "unanswered" if reply is None else "ok" if reply["ok"] else reply["error"]["code"]
        self.said[f"{verb} {code}"] += 1
        return reply


class Prompter(Driver):
    """Speaks to one session, one prompt after the other, sometimes while it still works."""

    def __init__(
        self,
        client: Client,
        chance: random.Random,
        session: str,
        numbers: Iterator[int],
        effects: str,
        *,
        mean_s: float = 0.8,
    ) -> None:
        super().__init__(client, chance)
        self.session = session
        self._numbers = numbers
        self._effects = effects
        self._mean_s = mean_s  # between two prompts
        self._queued = 0
        client.listen(f"sessions/{session}/state", self._on_state)

    def _on_state(self, _topic: str, raw: bytes) -> None:
        if raw:
            state = json.loads(raw)
            self._queued = state["queued_prompts"] + len(state["pending_approvals"])

    def run(self, ended: threading.Event) -> None:
        while not self.calm.is_set() and not ended.is_set():
            if self._queued < MAX_QUEUED:
                self.prompt()
            self.wait(self._mean_s, self.calm)

    def prompt(self) -> None:
        number = next(self._numbers)
        self.promise(number, self.session, self._script(number))

    def _script(self, number: int) -> str:
        def bash(part: int) -> str:
            return f"BASH echo x >> {self._effects}/P{number}.{part}"

        steps = self.chance.choice(
            (
                [],
                [bash(1)],
                [bash(1), "SAY done"],
                [bash(1), bash(2), "SAY done"],
                [f"{bash(1)} & {bash(2)}", "SAY done"],
                ["STREAM 40 20", bash(1)],
                ["WAIT 300", "STREAM 10 10"],
            )
        )
        return " ;; ".join([f"SAY P{number}", *steps])


class Approver(Driver):
    """Sees every request, and answers as people do: yes, no, twice, too late, or not at all."""

    def __init__(self, client: Client, chance: random.Random, user: str) -> None:
        super().__init__(client, chance)
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        client.listen(f"approvals/+/tokens/{user}", self._on_token)

    def _on_token(self, topic: str, raw: bytes) -> None:
        approval = topic.split("/")[1]
        with self._lock:
            if raw:
                self._tokens[approval] = json.loads(raw)["token"]
            else:
                self._tokens.pop(approval, None)

    def run(self, ended: threading.Event) -> None:
        passed_over: set[str] = set()
        while not ended.is_set():
            with self._lock:
                waiting = [
                    (a, token)
                    for a, token in self._tokens.items()
                    if self.calm.is_set() or a not in passed_over
                ]
            for approval, token in waiting:
                if not self.calm.is_set() and self.chance.random() < 0.15:
                    passed_over.add(approval)  # the other one may see it, or it expires
                    continue
                self._decide(approval, token)
            self.wait(0.3, ended)

    def _decide(self, approval: str, token: str) -> None:
        word = "deny" if not self.calm.is_set() and self.chance.random() < 0.3 else "approve"
        for decision in (word, "deny") if self.chance.random() < 0.1 else (word,):
            reply = self.ask(f"approvals/{approval}/decision", {"decision": decision, "token": token})
            if reply is not None:
                with self._lock:
                    self._tokens.pop(approval, None)


class Asker(Approver):
    """When all is over, has each session ask once more, and answers when told to."""

    def run(self, ended: threading.Event) -> None:
        """Its time comes later."""

    def have_asked(self, sessions: list[str], numbers: Iterator[int]) -> int:
        """Returns how many questions there will be. They wait: questions do not expire."""
        scripts = [(session, number) for session, number in zip(sessions, numbers, strict=False)]
        return sum(self.promise(n, session, f"SAY P{n} ;; ASK Which?|this|that") for session, n in scripts)

    def answer(self) -> None:
        with self._lock:
            waiting = list(self._tokens.items())
        for approval, token in waiting:
            self.ask(f"approvals/{approval}/decision", {"decision": "deny", "token": token})


class Interrupter(Driver):
    """Stops a turn now and then."""

    def __init__(self, client: Client, chance: random.Random, sessions: list[str]) -> None:
        super().__init__(client, chance)
        self._sessions = sessions

    def run(self, ended: threading.Event) -> None:
        while not self.calm.is_set() and not ended.is_set():
            self.wait(15, self.calm)
            if not self.calm.is_set():
                session = self.chance.choice(self._sessions)
                self.interrupted.add(session)
                self.ask(f"sessions/{session}/interrupt", {})


class Sleeper(Driver):
    """Puts sessions to sleep, and wakes some of them; prompts wake the others."""

    def __init__(self, client: Client, chance: random.Random, sessions: list[str]) -> None:
        super().__init__(client, chance)
        self._sessions = sessions

    def run(self, ended: threading.Event) -> None:
        while not self.calm.is_set() and not ended.is_set():
            self.wait(4, self.calm)
            if not self.calm.is_set():
                verb = self.chance.choice(("hibernate", "hibernate", "wake"))
                self.ask(f"sessions/{self.chance.choice(self._sessions)}/{verb}", {})


class Treasurer(Driver):
    """Takes a session's budget away and gives it back."""

    def __init__(self, client: Client, chance: random.Random, sessions: list[str]) -> None:
        super().__init__(client, chance)
        self._sessions = sessions

    def run(self, ended: threading.Event) -> None:
        while not ended.is_set() and not self.calm.is_set():
            self.wait(8, self.calm)
            session = self.chance.choice(self._sessions)
            if not self.calm.is_set():
                self.interrupted.add(session)  # perhaps seconds later, when ingest is back
                self.ask(f"ledger/sessions/{session}/budget", {"budget_usd": 0.000001})
                self.calm.wait(self.chance.uniform(0.5, 3))
            self.ask(f"ledger/sessions/{session}/budget", {"budget_usd": None})


class Clock:
    """How long something has been so: for the end, which is when everything has been at rest for a while."""

    def __init__(self) -> None:
        self._since: float | None = None

    def has_been(self, so: bool) -> float:
        """Seconds."""
        if not so:
            self._since = None
            return 0.0
        now = time.monotonic()
        self._since = self._since if self._since is not None else now
        return now - self._since
