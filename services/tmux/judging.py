"""What a look at the world means: is an agent over, was all of it read, must its window come back?"""

from __future__ import annotations

from datetime import datetime, timedelta

from bus.effects import Effect
from services.tmux.model import AgentIs, Open, Pane, Record, Seen, State
from services.tmux.steps import Steps, Watch

GONE_GRACE_S = 2.0  # the keeper writes the exit code just after the agent is gone
DRAIN_S = 20.0  # how long a bridge may take to bring the last frames to an ingest that is online
REOPEN_MAX_S = 30.0  # between attempts to run a bridge that ends at once
REOPEN_QUICK_S = 10.0  # a bridge that lived longer than this is started again at once
BRIDGE_DONE = frozenset({0, 3})  # its exit codes: all is said; ingest does not want it


class Judging(Steps):
    """Judges one session by what is `Seen` of it, and by what is remembered in its `Watch`."""

    def _over(self, record: Record, seen: Seen, now: datetime) -> bool:
        """Whether agent process ``record.process`` has run and is gone, or will never run."""
        watch = self._watching(record.uid)
        # An agent that has not shown itself may still do so while something could start it.
        unwanted = record.state is State.ENDING or record.stop == record.process
        never = unwanted and seen.agent is AgentIs.NOT_STARTED and not _alive(seen.pane)
        if not never and seen.agent is not AgentIs.GONE:
            watch.gone_since = None
        elif watch.gone_since is None:
            watch.gone_since = now
        over = (
            seen.exit is not None
            or (never and not seen.directory)
            or (watch.gone_since is not None and now - watch.gone_since >= timedelta(seconds=GONE_GRACE_S))
        )
        if not over:
            watch.over_since = None
        elif watch.over_since is None:
            watch.over_since = now
        return over

    def _drained(self, record: Record, seen: Seen, now: datetime, *, ingest_online: bool) -> bool:
        """Whether the bridge has brought everything to ingest. While ingest is away its frames, and the cost
        in them, are waited for; once it is there the bridge has `DRAIN_S`.
        """
        watch = self._watching(record.uid)
        never_ran = seen.agent is AgentIs.NOT_STARTED and seen.exit is None
        if record.asked.kind != "managed" or never_ran or not seen.directory:
            return True
        pane = seen.pane
        if pane is not None and pane.process == record.process and pane.dead and pane.status in BRIDGE_DONE:
            return True
        if not ingest_online:
            watch.over_since = now
        return watch.over_since is not None and now - watch.over_since >= timedelta(seconds=DRAIN_S)

    def _reopen(self, record: Record, seen: Seen, now: datetime) -> list[Effect]:
        """The window, unless it is there and alive; not more and more often if its program ends at once."""
        pane = seen.pane
        if _alive(pane) and pane is not None and pane.process == record.process:
            return []
        watch = self._watching(record.uid)
        if watch.opened_at is not None:
            lived = now - watch.opened_at
            if not watch.down:
                watch.down = True
                watch.quick = watch.quick + 1 if lived < timedelta(seconds=REOPEN_QUICK_S) else 0
            if watch.quick > 1 and lived < timedelta(seconds=min(2.0 ** (watch.quick - 2), REOPEN_MAX_S)):
                return []
        return [Open(record.uid, record.process, pane.pane if pane else None)]

    def _watching(self, uid: str) -> Watch:
        return self._watch.setdefault(uid, Watch())


def _alive(pane: Pane | None) -> bool:
    return pane is not None and not pane.dead
