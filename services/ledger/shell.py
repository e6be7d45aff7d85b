"""The ledger in the world: its store, its clock and its place on the bus. Decides nothing."""

from __future__ import annotations

import functools
import os
import time
from datetime import datetime
from pathlib import Path

import trio
from prometheus_client import Counter, Gauge

from bus import codec
from bus import messages as m
from bus import topics as t
from bus.api import Received
from bus.effects import Do, Effect, Keep, Publish, ReplyTo
from bus.errors import RefusedError
from services._process.context import Context
from services._process.errors import WorldError
from services._process.station import Station
from services.ledger import money, say, upkeep
from services.ledger.core import Ledger
from services.ledger.database import open_database
from services.ledger.evidence import Told
from services.ledger.evidence_store import EvidenceStore
from services.ledger.files import projects
from services.ledger.forecast import HABIT_S
from services.ledger.importer import Importer
from services.ledger.metrics import LedgerFigures
from services.ledger.model import Counted
from services.ledger.prices import Prices
from services.ledger.standing import Standing
from services.ledger.store import Store
from services.ledger.watch import Watch
from services.ledger.zone import local_zone

MAILBOX = "ledger-mailbox.sqlite"  # beside a database that is on a server
ALLOWANCES_S = 5.0  # ingest takes a silence of three of these for our end
REPLY_S = 1.0  # for the last words before a start anew
TICK_S = 30.0  # burn rates fall and days end; nobody looks at either by the second
LEVELS = ("unlimited", "abundant", "moderate", "cautious", "critical", "exhausted")


async def serve(context: Context) -> None:
    """Run until cancelled. Raises `StoreError`, whose text says what to do."""
    place, mailbox = context.config.ledger.database, context.home.path / MAILBOX
    agreed = None
    if upkeep.due(place):

        def tell(what: str) -> None:
            context.log.warning(what)
            context.doing(what)

        bring_up = functools.partial(upkeep.bring_up, place, mailbox, tell)
        agreed = await trio.to_thread.run_sync(bring_up, abandon_on_cancel=True)
        context.doing("")
    await Shell(context, agreed=agreed).run()


class Shell:
    """Carries events to the ledger and its effects into the world. ``agreed``: whether the sums did, if they
    were compared already.
    """

    def __init__(self, context: Context, *, agreed: bool | None = None) -> None:
        self._context = context
        self._zone = local_zone(os.environ)
        config = context.config.ledger
        began = time.perf_counter()
        self.database = open_database(config.database, context.home.path / MAILBOX)
        self.store = Store(self.database)
        self.evidence = EvidenceStore(self.database, self.store)
        self.standing = Standing(self.database.mailbox)
        self._checking: str | None = None  # the id of the check that runs
        self._checks, self._to_check = trio.open_memory_channel[m.LedgerCheck](1)
        self._metrics()
        if agreed is None:
            agreed = upkeep.compare(self.database, context.log.warning)
        if not agreed:
            context.log.error(
                "sums did not agree with their postings: made again", database=self.database.name
            )
            self._rebuilds.inc()
        budget = config.default_budget_usd
        now = context.now()
        self.ledger = Ledger(
            zone=self._zone,
            default_budget=None if budget is None else money.from_usd(budget),
            loaded=self.evidence.load(now, HABIT_S),
            recall=self.store.near,
            archive=self.evidence.archive,
            prices=Prices(),
            now=now,
            stood=self.standing.load(),
        )
        took_ms = round((time.perf_counter() - began) * 1000)
        context.log.info("ledger read", took_ms=took_ms, zone=str(self._zone))
        self.station = Station(
            context,
            self.database.mailbox,
            keep=self._keep,
            do=self._do,
            transact=self.database.transaction,
        )
        self.figures = LedgerFigures(self.ledger)
        context.registry.register(self.figures)
        self.watch = Watch(
            self.ledger.witness,
            read=self.ledger.read,
            root=projects(os.environ, Path(os.environ.get("HOME", "/"))),
            place=self.evidence.place,
            act=self.station.act,
            now=context.now,
            broken=self._broken.inc,
            refused=self._transcript_refused,
        )
        self.importer = Importer(
            self.ledger.imports,
            take=self.ledger.imported,
            act=self.station.act,
            now=context.now,
            relaxed=self.database.relaxed,
        )
        self._drift.set_function(lambda: money.to_usd(self.ledger.node.drift))

    def _metrics(self) -> None:
        registry = self._context.registry
        self._postings = Counter(
            "pointsman_postings", "Rows added to the ledger", ["source"], registry=registry
        )
        self._resets = Counter(
            "pointsman_cost_resets", "Running totals that began anew without a baseline", registry=registry
        )
        self._late = Counter(
            "pointsman_cost_late_reports", "Reports that came after a later one", registry=registry
        )
        self._rest = Counter(
            "pointsman_cost_unattributed_dollars",
            "Cost (either way) that the models' own figures did not account for",
            registry=registry,
        )
        self._drifts = Counter(
            "pointsman_cost_drifts", "Sessions whose witnesses came to disagree", registry=registry
        )
        self._drift = Gauge(
            "pointsman_cost_drift_dollars", "Counted, less what the transcripts say", registry=registry
        )
        self._lost = Counter(
            "pointsman_cost_unbooked", "Killed agents whose transcripts were not found", registry=registry
        )
        self._broken = Counter(
            "pointsman_transcript_lines_broken", "Lines that could not be read", registry=registry
        )
        self._foreign = Counter(
            "pointsman_transcripts_refused",
            "Transcripts stated by a hook that are not their conversation's",
            registry=registry,
        )
        self._rebuilds = Counter(
            "pointsman_ledger_rebuilds", "Sums that had to be made again at start", registry=registry
        )

    async def run(self) -> None:
        station, ledger = self.station, self.ledger
        station.act(ledger.snapshots(self._context.now()))
        for row in (t.LEDGER_SESSION, t.LEDGER_TOTAL, t.LEDGER_ALLOWANCES):
            self._context.bus.own(row)  # what else stands there is of a session that is gone
        station.on_fact("opened", m.SessionOpened, ledger.opened)
        station.on_fact("cost", m.CostReported, ledger.cost)
        station.on_fact("conversation", m.ConversationFollowed, ledger.followed)
        station.on_fact("unreported", m.CostUnreported, ledger.unreported)
        station.on_fact("running", m.CostRunning, ledger.running)
        station.on_fact("limit", m.LimitSeen, ledger.limit)
        station.on_fact("limit_over", m.LimitOver, ledger.limit_over)
        station.on_command(t.LEDGER_SESSION_BUDGET, m.SetBudget, self._set_budget)
        station.on_command(t.LEDGER_BUDGET, m.SetBudget, self._set_period_budget)
        station.on_command(t.LEDGER_QUERY, m.LedgerQuery, self._query)
        station.on_command(t.LEDGER_IMPORT, m.LedgerImport, self._import)
        station.on_command(t.LEDGER_CHECK, m.LedgerCheck, self._begin_check, remember=False)
        station.on_message(t.SESSIONS_INDEX, self._index)
        station.on_message(t.SESSION_EVENT, self._tool, type="tool")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check)
            nursery.start_soon(self._tick)
            nursery.start_soon(self._say_allowances)
            nursery.start_soon(self.watch.run)
            nursery.start_soon(self.importer.run)
            await station.run()

    def _transcript_refused(self, uid: str, path: str) -> None:
        self._foreign.inc()
        self._context.log.warning(
            "transcript refused: it is none of this conversation in the projects of Claude Code",
            uid=uid,
            path=path[:500],
            root=str(self.watch.root),
            hint="start Pointsman with the same CLAUDE_CONFIG_DIR as that agent",
        )

    def _set_budget(self, command: m.SetBudget, values: dict[str, str], now: datetime) -> list[Effect]:
        return self.ledger.set_budget(command, values["session"], now)

    def _set_period_budget(self, command: m.SetBudget, values: dict[str, str], now: datetime) -> list[Effect]:
        return self.ledger.set_period_budget(command, values["period"], now)

    def _query(self, command: m.LedgerQuery, _values: dict[str, str], _now: datetime) -> list[Effect]:
        rows = self.store.queries.ask(command.by, command.since, command.until, self._zone)
        return [ReplyTo(command.id, say.answer(command.by, rows, self._zone))]

    def _import(self, command: m.LedgerImport, _values: dict[str, str], now: datetime) -> list[Effect]:
        wrong = [path for path in command.paths if not Path(path).is_absolute()]
        missing = [path for path in command.paths if not Path(path).exists()]
        if wrong or len(missing) == len(command.paths):
            raise RefusedError(
                "bad_request", f"not there, or not absolute: {', '.join((wrong or missing)[:5])}"
            )
        self.importer.wake()
        return self.ledger.imports.begin(command, now)

    def _begin_check(self, command: m.LedgerCheck, _values: dict[str, str], _now: datetime) -> list[Effect]:
        if self._checking is not None and command.id != self._checking:
            raise RefusedError("busy", "the sums are being compared already")
        if self._checking is None:  # else it was sent again, because it takes its time
            self._checking = command.id or ""
            self._checks.send_nowait(command)
        return []

    async def _check(self) -> None:
        """Compare everything, when it is asked for, beside the work."""
        async for command in self._to_check:

            def progress(done: int, of: int, about: m.LedgerCheck = command) -> None:
                trio.from_thread.run_sync(self._checked, about, done, of)

            check = functools.partial(upkeep.check, self._context.config.ledger.database, progress)
            postings, differing = await trio.to_thread.run_sync(check, abandon_on_cancel=True)
            ok = not any(differing.values())
            rebuilding = command.rebuild and not ok
            result = m.CheckResult(ok=ok, postings=postings, differing=differing, rebuilding=rebuilding)
            if not ok:
                self._context.log.error("sums do not agree with their postings", **differing)
            if rebuilding:
                with self.database.transaction():
                    self.store.forget_checked()
            self._checking = None
            self.station.act([ReplyTo(command.id, result)])
            if rebuilding:
                await trio.sleep(REPLY_S)
                raise WorldError("the ledger starts anew, to make its sums again from the postings")

    def _checked(self, command: m.LedgerCheck, done: int, of: int) -> None:
        said = f"{done} of {of} comparisons are done"
        event = m.LedgerEvent(
            at=self._context.now(),
            action="check_progress",
            reason=said,
            id=command.id or "",
            done=done,
            of=of,
        )
        self.station.act([Publish(t.LEDGER_EVENTS, event)])

    def _index(self, message: Received, now: datetime) -> list[Effect]:
        if not message.payload:
            return []
        index = codec.decode(t.SESSIONS_INDEX, message.payload, m.SessionIndex)
        self.figures.listed(index)
        return self.ledger.listed(index, now)

    def _tool(self, message: Received, now: datetime) -> list[Effect]:
        if not message.payload:
            return []
        return self.ledger.tool(codec.decode(t.SESSION_EVENT, message.payload, m.ToolEvent), now)

    def _keep(self, effect: Keep) -> None:
        if isinstance(effect, Standing.KEEPS):
            self.standing.keep(effect)
        elif not self.evidence.keep(effect):
            self.store.keep(effect)

    def _do(self, effect: Do) -> None:
        if isinstance(effect, Counted):
            for row in effect.postings:
                self._postings.labels(row.source).inc()
            self._resets.inc(effect.reset)
            self._late.inc(effect.late)
            self._rest.inc(abs(money.to_usd(effect.rest)))
        elif isinstance(effect, Told):
            self._drifts.inc(effect.drift)
            self._lost.inc(effect.lost)

    async def _say_allowances(self) -> None:
        while True:
            self.station.act([self.ledger.allowances(self._context.now())])
            await trio.sleep(ALLOWANCES_S)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            now = self._context.now()
            self.station.act(self.ledger.tick(now))
            self.figures.burn_usd_per_h = self.ledger.node.burn.per_hour(now)
