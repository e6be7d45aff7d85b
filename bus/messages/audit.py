"""The audit of the gate, and the keys of its tokens."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Raw

from bus.messages.envelope import Command, Payload


class VerifyAudit(Command, frozen=True, kw_only=True):
    """Prove the audit chain; ``head`` is one that was told before and noted elsewhere (`AuditVerified`)."""

    head: Annotated[str, Meta(pattern=r"^[0-9]{1,18}:[0-9a-f]{64}(?!\n)$")] | None = None


class AuditBroken(Payload, frozen=True, kw_only=True):
    """Where the chain does not hold: ``n`` is the first row that cannot be trusted."""

    n: int
    reason: str


class AuditVerified(Payload, frozen=True, kw_only=True):
    """``head`` is ``<number>:<hash>`` of the last row that the chain leads to."""

    ok: bool
    rows: int
    head: str
    broken: AuditBroken | None


class ExportAudit(Command, frozen=True, kw_only=True):
    """The rows after number ``after``, oldest first. A page may be shorter than ``limit``."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 500


class AuditPage(Payload, frozen=True, kw_only=True):
    """``last`` is the number of the chain's last row: the next page is asked for with the last ``n`` here."""

    rows: list[AuditLine]
    last: int


class AuditLine(Payload, frozen=True, kw_only=True):
    """One row of the audit. ``hash`` (hex) is over the row before it and this one's other fields."""

    n: int
    at: str
    action: str
    approval: str
    data: Raw
    hash: str


class RotateKeys(Command, frozen=True, kw_only=True):
    """Tokens that were read before stay good for what waits now, unless ``now``: then they are void at once.
    New ones are told either way.
    """

    now: bool = False
