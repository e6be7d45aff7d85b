"""The ledger: what sessions and the node spent, and their budgets."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from bus.messages.envelope import Command, Payload, Time, Usd


class SetBudget(Command, frozen=True, kw_only=True):
    budget_usd: Usd | None


class LedgerQuery(Command, frozen=True, kw_only=True):
    by: Literal["session", "model", "day", "project"]
    since: Time | None = None
    until: Time | None = None


class LedgerQueryRow(Payload, frozen=True, kw_only=True):
    """``uid`` stands in rows by session, because a name may have been used by several."""

    key: str
    uid: str | UnsetType = UNSET
    spent_usd: float
    turns: int
    tokens: Tokens
    unpriced: bool = False  # some of these tokens have no price: they are not in ``spent_usd``


class LedgerQueryResult(Payload, frozen=True, kw_only=True):
    by: str
    rows: list[LedgerQueryRow]
    total_usd: float


class LedgerImport(Command, frozen=True, kw_only=True):
    """Read past transcripts: files, and everything below directories; absolute, on the ledger's machine."""

    paths: Annotated[list[str], Meta(min_length=1, max_length=1000)]


class ImportResult(Payload, frozen=True, kw_only=True):
    """``added``: calls of a model that were new; ``duplicates``: lines that told of known ones."""

    files: int
    lines: int
    added: int
    duplicates: int
    broken: int
    unreadable: int = 0


class LedgerCheck(Command, frozen=True, kw_only=True):
    """Compare every sum with its postings; ``rebuild``: if some differ, the ledger starts anew and makes them
    again.
    """

    rebuild: bool = False


class CheckResult(Payload, frozen=True, kw_only=True):
    """``differing``: of each table of sums, how many rows are not what the postings say; ``rebuilding``: the
    ledger starts anew now.
    """

    ok: bool
    postings: int
    differing: dict[str, int]
    rebuilding: bool = False


class Tokens(Payload, frozen=True, kw_only=True):
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0


class ModelCost(Payload, frozen=True, kw_only=True):
    cost_usd: float
    turns: int
    tokens: Tokens


class Witnesses(Payload, frozen=True, kw_only=True):
    agent_usd: float
    priced_usd: float | None = None
    transcript_usd: float | None = None


class LimitWindow(Payload, frozen=True, kw_only=True):
    window: str
    utilization: float | None
    resets_at: Time | None


class Period(Payload, frozen=True, kw_only=True):
    """``remaining_usd`` and ``level`` count what turns that still run have cost so far."""

    spent_usd: float
    budget_usd: float | None
    remaining_usd: float | None = None
    level: str = "unlimited"
    since: Time | None
    until: Time | None = None


class LedgerTotal(Payload, frozen=True, kw_only=True):
    """What the node spent (contract, section 7). ``running_usd``: what turns that still run have cost so far.
    It is not in ``spent_usd`` yet, but counts against the budget.
    """

    spent_usd: float
    running_usd: float = 0.0
    budget_usd: float | None
    remaining_usd: float | None
    used_ratio: float | None
    level: str
    turns: int
    tokens: Tokens
    by_model: dict[str, ModelCost]
    burn_usd_per_h: float | None
    exhausted_at: Time | None
    exhausted_between: tuple[Time, Time] | None
    notional: bool
    estimated_usd: float
    unpriced: list[str]
    witnesses: Witnesses
    drift_usd: float  # spent, less what the second witness says
    drift_cause: str | None = None  # where the drift is more than a cent or 1 %
    limits: list[LimitWindow]
    at: Time
    periods: dict[str, Period] | UnsetType = UNSET


class LedgerSession(LedgerTotal, frozen=True, kw_only=True):
    """What one session spent."""

    session: str
    uid: str


class LedgerAllowances(Payload, frozen=True, kw_only=True):
    """What may still be spent before something is stopped: of the node's budgets, and by each session's uid.
    None: no budget stops it. Said every 5 s, so that its absence tells.
    """

    node_usd: float | None
    sessions: dict[str, float | None]
    at: Time


class LedgerEvent(Payload, frozen=True, kw_only=True, rename={"from_": "from"}):
    at: Time
    action: str
    session: str | UnsetType = UNSET
    uid: str | UnsetType = UNSET
    from_: str | UnsetType = UNSET
    to: str | UnsetType = UNSET
    reason: str
    id: str | UnsetType = UNSET  # of the import or check
    done: int | UnsetType = UNSET  # bytes of it, or steps
    of: int | UnsetType = UNSET
