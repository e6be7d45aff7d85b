"""Which sessions could make room, and which must (contract, section 8). Pure.

A session is idle when its agent does nothing and nothing waits for it: then it may be put to sleep. Who is
pinned is not, however short memory runs; only beyond `HARD` may its agent be ended, after all others of its
row: what is idle loses nothing by it, so it goes before anyone's turn.

| when | what |
|---|---|
| idle for ``idle_s`` (0: never) | it is hibernated |
| more than ``max_sessions`` are awake | the longest idle are hibernated |
| memory at `HIGH` of the budget | the longest idle are hibernated, as many as it takes |
| memory at `HARD` | one agent is ended: the largest idle one, a pinned one last; |
|  | else the largest that works, a pinned one last |

The owner of the sessions decides whether one is really idle; what it refuses is asked again after
`AGAIN_S`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from bus import messages as m
from bus import topics as t
from bus.effects import Do, Effect, Publish

HIGH = 0.618
HARD = 0.95
AGAIN_S = 30.0
SETTLES_S = 8.0  # an agent that is ended is killed after 5 s at the latest; then the next one, if need be
FAILED_S = 300.0  # how long a session that crashed in a loop counts

CONTROLLED = frozenset({"managed", "sdk-url"})
IDLE = frozenset({"ready", "waiting_input"})
ASLEEP = frozenset({"hibernating", "hibernated"})
OVER = frozenset({"ended", "failed"})
SWEPT = frozenset({"hibernated", "waking", *OVER})


@dataclass(frozen=True, slots=True)
class Limits:
    """What the configuration says."""

    idle_s: float = 3600.0
    max_sessions: int = 10


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session's agent and all its children use. ``pid``: the agent's; 0 if it has not been found.
    ``members``: all of them, as (pid, start time in clock ticks), which is never another's.
    """

    pid: int
    processes: int
    rss_bytes: int
    cpu_percent: float
    members: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep(Do):
    """End what an agent that we ended has left behind: processes that left its group."""

    session: str
    members: tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Member:
    """One session. ``asked`` (monotonic seconds): when it was asked to sleep last; ``why``: for that."""

    state: m.SessionState
    asked: float | None = None
    why: str = ""
    evicted: bool = False  # it sleeps because of us


class Fleet:
    """The sessions that we hear of."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.members: dict[str, Member] = {}  # by uid
        self._failed: list[datetime] = []
        self._ended_at: float | None = None  # monotonic: the last agent that was ended for its memory
        self._to_sweep: dict[str, tuple[tuple[int, int], ...]] = {}  # uid → processes of an agent ended by us

    # what is heard

    def heard(self, state: m.SessionState, now: datetime) -> list[m.WatchdogEvent]:
        """A session's state, as its owner says it. Returns what is to be told."""
        member = self.members.get(state.uid)
        if member is None:
            self.members = {u: x for u, x in self.members.items() if x.state.session != state.session}
            self.members[state.uid] = Member(state)
            return []
        before, member.state = member.state.status, state
        told: list[m.WatchdogEvent] = []
        if state.status == "failed" and before != "failed":
            self._failed.append(now)
            told.append(_event(now, "crash_loop", state, state.error or "its agent failed"))
        if state.status in ASLEEP and member.asked is not None and not member.evicted:
            member.evicted = True
            told.append(_event(now, "evicted", state, member.why))
        if state.status not in ASLEEP and state.status != "waking":
            if member.evicted:
                told.append(_event(now, "resumed", state, "it is awake again"))
            if before in ASLEEP or before == "waking":
                member.asked, member.evicted = None, False
        return told

    def gone(self, session: str) -> None:
        """Its snapshot was cleared."""
        self.members = {uid: x for uid, x in self.members.items() if x.state.session != session}

    # what is known

    def failed(self, now: datetime) -> int:
        """Sessions whose agents crashed in a loop lately."""
        self._failed = [at for at in self._failed if now - at < timedelta(seconds=FAILED_S)]
        return len(self._failed)

    @property
    def evicted(self) -> list[str]:
        """Names of the sessions that sleep because of us."""
        return [x.state.session for x in self.members.values() if x.evicted and x.state.status in ASLEEP]

    def _idle(self, mono: float) -> list[Member]:
        """Those that may be put to sleep, longest idle first."""
        found = [
            x
            for x in self.members.values()
            if x.state.status in IDLE
            and x.state.kind in CONTROLLED
            and not (x.state.pinned or x.state.queued_prompts or x.state.pending_approvals)
            and x.state.current_tool is None
            and (x.asked is None or mono - x.asked >= AGAIN_S)
        ]
        return sorted(found, key=lambda x: _since(x.state))

    # what is done

    def rest(self, mono: float, now: datetime) -> list[Effect]:
        """Who has been idle for too long, and who is one too many."""
        effects: list[Effect] = []
        idle = self._idle(mono)
        for member in idle if self._limits.idle_s > 0 else ():
            if now - _since(member.state) >= timedelta(seconds=self._limits.idle_s):
                effects += self._hibernate(member, f"idle for {self._limits.idle_s:.0f} s", mono, now)
        awake = [x for x in self.members.values() if self._awake(x, mono)]
        many = len(awake) - self._limits.max_sessions
        why = f"{len(awake)} sessions are awake, {self._limits.max_sessions} may be"
        for member in [x for x in idle if self._awake(x, mono)][: max(0, many)]:
            effects += self._hibernate(member, why, mono, now)
        return effects

    def _awake(self, x: Member, mono: float) -> bool:
        """Whether it counts among ``max_sessions``; one that was asked to sleep just now does not."""
        asked = x.asked is not None and mono - x.asked < AGAIN_S and x.state.status in IDLE
        return x.state.kind in CONTROLLED and x.state.status not in ASLEEP | OVER and not asked

    def relieve(
        self, used: int, budget: int, usage: Mapping[str, Usage], mono: float, now: datetime
    ) -> list[Effect]:
        """Make room, after a measurement."""
        if budget <= 0 or used < HIGH * budget:
            return []
        effects: list[Effect] = []
        why = f"memory is at {used / budget:.0%} of its budget"
        if used >= HARD * budget:
            effects += self._end_one(usage, why, mono, now)
        leaving = sum(
            usage[uid].rss_bytes
            for uid, x in self.members.items()
            if uid in usage
            and x.asked is not None
            and mono - x.asked < AGAIN_S
            and x.state.status not in OVER
        )
        excess = used - HIGH * budget - leaving
        for member in self._idle(mono):
            size = usage[member.state.uid].rss_bytes if member.state.uid in usage else 0
            if excess <= 0:
                break
            if size:
                effects += self._hibernate(member, why, mono, now)
                excess -= size
        return effects

    def _hibernate(self, member: Member, why: str, mono: float, now: datetime) -> list[Effect]:
        state = member.state
        member.asked, member.why = mono, why
        command = m.SessionCommand(
            id=f"rest-{state.uid}-{now.timestamp():.0f}", uid=state.uid, reason=why, by="service-watchdog"
        )
        return [Publish(t.SESSION_HIBERNATE, command, {"session": state.session})]

    def _end_one(self, usage: Mapping[str, Usage], why: str, mono: float, now: datetime) -> list[Effect]:
        if self._ended_at is not None and mono - self._ended_at < SETTLES_S:
            return []
        found = [
            x
            for uid, x in self.members.items()
            if uid in usage and x.state.kind in CONTROLLED and x.state.status not in ASLEEP | OVER
        ]
        if not found:
            return []
        victim = min(
            found,
            key=lambda x: (x.state.status not in IDLE, x.state.pinned, -usage[x.state.uid].rss_bytes),
        )
        self._ended_at = mono
        state, size = victim.state, usage[victim.state.uid].rss_bytes
        does = "idle" if state.status in IDLE else state.status.replace("_", " ")
        reason = f"{why}: its agent ({size // 2**20} MiB, {does}) is ended; the next prompt wakes it"
        victim.asked, victim.why, victim.evicted = mono, reason, True
        self._to_sweep[state.uid] = usage[state.uid].members
        command = m.EvictAgent(id=f"evict-{state.uid}-{now.timestamp():.0f}", uid=state.uid, reason=reason)
        return [
            Publish(t.EVICT_AGENT, command),
            Publish(t.WATCHDOG_EVENTS, _event(now, "agent_ended", state, reason)),
        ]

    def sweep(self) -> list[Effect]:
        """What agents that we ended have left behind, now that they are over."""
        effects: list[Effect] = []
        for uid, processes in list(self._to_sweep.items()):
            member = self.members.get(uid)
            if member is None or member.state.status in SWEPT:
                del self._to_sweep[uid]
                if member is not None:
                    effects.append(Sweep(member.state.session, processes))
        return effects


def _since(state: m.SessionState) -> datetime:
    """Since when it does nothing."""
    return max(state.last_activity_at, state.status_since)


def _event(now: datetime, action: str, state: m.SessionState, reason: str) -> m.WatchdogEvent:
    return m.WatchdogEvent(at=now, action=action, session=state.session, reason=reason[:500])
