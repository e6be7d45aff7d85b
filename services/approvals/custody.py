"""Who keeps the audit and the keys: what is checked at the start, and the commands about both.

A part of the shell: it waits, reads the clock through its context, and touches the home.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import trio

from bus import messages as m
from bus import topics as t
from bus.effects import Effect, Publish, ReplyTo
from services._process.context import Context
from services._process.station import Station
from services.approvals import audit
from services.approvals.audit import BROKEN
from services.approvals.chain import NOTE_EVERY_S
from services.approvals.core import Gate
from services.approvals.keys import Keys
from services.approvals.model import Approval, Audit, OldKeys, SealAnew, State
from services.approvals.store import Store

NOTE = "audit.head"  # in the home's secrets: the head as it was noted last


class Custody:
    """`begin` before anything else is kept; then `register`, and `run` for as long as the service does."""

    def __init__(self, context: Context, store: Store, keys: Keys, gate: Gate, station: Station) -> None:
        self._context = context
        self._chain = store.chain
        self._store = store
        self._keys = keys
        self._gate = gate
        self._station = station
        self._noted: tuple[int, bytes] | None = None
        self._proving: set[str | None] = set()  # ids of commands
        # Those whose tokens may have been read with an old key.
        self._of_old_keys = {a.id for a in gate.waiting()} if len(keys) > 1 else set[str]()

    def begin(self) -> None:
        """Find out whether the audit is the one that we left."""
        now = self._context.now()
        effects: list[Effect] = []
        if self._store.empty:
            effects.append(SealAnew())
        elif self._keys.new:
            reason = "the key was not there: a new one was made, and the chain is trusted as it stands"
            effects += [SealAnew(), Audit(now, "keys", "", {"reason": reason})]
        missing = self._chain.missing(self._note())
        if missing is not None:
            self._chain.alarms.append(missing)
            effects.append(Audit(now, BROKEN, "", {"reason": missing}))
        if len(self._keys) > 1:  # seals the head with the newest
            effects.append(Audit(now, "keys", "", {"reason": "started with several keys"}))
        self._station.act(effects)
        self.drop_old_keys()
        self._alarm()
        self._write_note()

    def register(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        station = self._station
        station.on_command(t.AUDIT_VERIFY, m.VerifyAudit, self._verify, remember=False)
        station.on_command(t.AUDIT_EXPORT, m.ExportAudit, self._export, remember=False)
        station.on_command(t.KEYS_ROTATE, m.RotateKeys, self._rotate)

    async def run(self) -> None:
        while True:
            await trio.sleep(NOTE_EVERY_S)
            self._alarm()
            self._write_note()

    # the audit

    def _note(self) -> tuple[int, bytes] | None:
        try:
            return audit.read((self._context.home.secrets / NOTE).read_text("utf-8"))
        except (OSError, UnicodeDecodeError):
            return None

    def _write_note(self) -> None:
        head = self._chain.head()
        if head != self._noted:
            self._context.home.write_secret(NOTE, audit.written(*head))
            self._noted = head

    def _alarm(self) -> None:
        reasons, self._chain.alarms = self._chain.alarms, []
        for reason in reasons:
            self._context.log.error("the audit is not as it was left", reason=reason)
            event = m.ApprovalEvent(at=self._context.now(), action="audit_broken", reason=reason)
            self._station.act([Publish(t.APPROVAL_EVENTS, event)])

    def _verify(self, c: m.VerifyAudit, _values: dict[str, str], _now: datetime) -> list[Effect]:
        if c.id not in self._proving:  # else it was asked again, and the answer will come
            self._proving.add(c.id)
            self._nursery.start_soon(self._prove, c)
        return []

    async def _prove(self, c: m.VerifyAudit) -> None:
        """In pages, so that approvals go on meanwhile."""
        heads = (self._note(), self._chain.written, audit.read(c.head or ""))
        known = [head for head in heads if head is not None and head[0]]
        proof = self._chain.prove(known)
        while (verified := next(proof)) is None:
            await trio.lowlevel.checkpoint()
        broken = verified.broken
        result = m.AuditVerified(
            ok=broken is None,
            rows=verified.rows,
            head=audit.written(verified.rows, verified.head),
            broken=None if broken is None else m.AuditBroken(n=broken.n, reason=broken.reason),
        )
        self._proving.discard(c.id)
        self._station.act([ReplyTo(c.id, result)])

    def _export(self, c: m.ExportAudit, _values: dict[str, str], _now: datetime) -> list[Effect]:
        rows = [
            m.AuditLine(
                n=row.n,
                at=row.at,
                action=row.action,
                approval=row.approval,
                data=msgspec.Raw(row.data.encode()),
                hash=row.hash.hex(),
            )
            for row in self._chain.page(c.after, c.limit)
        ]
        return [ReplyTo(c.id, m.AuditPage(rows=rows, last=self._chain.head()[0]))]

    # the keys

    def _rotate(self, c: m.RotateKeys, _values: dict[str, str], now: datetime) -> list[Effect]:
        self._keys.add()
        self._chain.seal = self._keys.seal
        self._of_old_keys = set() if c.now else {a.id for a in self._gate.waiting()}
        said = self._gate.rekey(self._keys.tokens)
        event = m.ApprovalEvent(
            at=now, action="keys_rotated", reason="a new key signs the tokens from now on"
        )
        return [
            Audit(now, "keys", "", {"reason": "rotated", "now": c.now, "stated_by": c.by}),
            *said,
            Publish(t.APPROVAL_EVENTS, event),
            ReplyTo(c.id, {"waiting": len(self._of_old_keys)}),
            OldKeys(),
        ]

    def kept(self, approval: Approval) -> None:
        """An approval was kept as it now is."""
        if approval.state is not State.PENDING:
            self._of_old_keys.discard(approval.id)

    def drop_old_keys(self) -> None:
        """Once all is decided whose tokens may have been read with one."""
        if len(self._keys) > 1 and not self._of_old_keys:
            self._keys.drop_old()
            self._chain.seal = self._keys.seal
            self._gate.rekey(self._keys.tokens)
