"""The one table of topics: nothing else spells a topic.

Each row says what a topic carries, of which kind it is, who writes and who reads it. The broker's access
rules (`bus.acl`), the AsyncAPI document (`bus.asyncapi`) and the docs are made from it. Patterns are relative
to ``<root>/<node>/`` unless they start with ``/`` (another product's convention, full name after the slash).

Actors in ``writers`` and ``readers`` are service names, or roles:
``viewer`` ⊂ ``approver`` ⊂ ``operator`` (each may do what the one before may), ``device`` and ``services``
(any service). ``{user}`` and ``{device}`` in a pattern stand for the reader's own name alone; ``{self}`` for
the writing service's own name.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bus import messages as m
from bus.errors import MisuseError


class Kind(enum.StrEnum):
    """The four kinds of message; there is no fifth (contract, section 2)."""

    SNAPSHOT = "snapshot"
    EVENT = "event"
    COMMAND = "command"
    FACT = "fact"


class Form(enum.StrEnum):
    """How a payload is written."""

    JSON = "json"
    PLAIN = "plain"  # bare UTF-8 text
    EITHER = "either"  # a JSON object or bare text


VIEWERS = frozenset({"viewer", "approver", "operator", "services"})
APPROVERS = frozenset({"approver", "operator", "services"})
OPERATORS = frozenset({"operator", "services"})
SERVICES = frozenset({"services"})

# What a parameter of a pattern may hold. None may contain a level separator or a wildcard.
_SLUG = r"[a-z0-9][a-z0-9-]{0,62}"
_ID = r"[A-Za-z0-9_-]{1,64}"
PARAMETERS: Mapping[str, re.Pattern[str]] = {
    name: re.compile(rf"^(?:{pattern})\Z")
    for name, pattern in {
        "session": _SLUG,
        "service": _SLUG,
        "self": _SLUG,
        "user": _SLUG,
        "device": _SLUG,
        "producer": _SLUG,
        "owner": _SLUG,
        "id": _ID,
        "type": r"[a-z_]{1,32}",
        "verb": r"[a-z_]{1,32}",
        "period": r"total|day|week|month",
    }.items()
}


@dataclass(frozen=True, eq=False, repr=False)
class Topic:
    """One row. ``payload`` is the msgspec type of its JSON, or None where it is plain text or varies.
    ``urgent``: somebody waits for it, so it leaves at once, alone if need be.
    """

    pattern: str
    kind: Kind
    payload: type[m.Payload] | None
    writers: frozenset[str]
    readers: frozenset[str]
    about: str
    form: Form = Form.JSON
    qos: int = 1
    urgent: bool = False
    verbs: tuple[str, ...] = ()  # the values of {verb} or {type} in use
    parameters: tuple[str, ...] = field(init=False)
    regex: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(re.findall(r"\{(\w+)\}", self.pattern))
        object.__setattr__(self, "parameters", names)
        regex = re.escape(self.pattern).replace(r"\{", "{").replace(r"\}", "}")
        regex = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", regex)
        object.__setattr__(self, "regex", re.compile(rf"^{regex}\Z"))

    def __repr__(self) -> str:
        return f"<{self.kind} {self.pattern}>"

    @property
    def retain(self) -> bool:
        """Snapshots are retained, nothing else is."""
        return self.kind is Kind.SNAPSHOT

    def path(self, /, **values: str) -> str:
        """The topic below ``<root>/<node>/`` with its parameters filled in.

        Raises `MisuseError` for a missing or unknown parameter, or a value that may not stand in a topic.
        """
        if len(values) != len(self.parameters):
            raise MisuseError(f"{self.pattern} takes {self.parameters}, not {tuple(values)}")
        text = self.pattern
        for name in self.parameters:
            value = values.get(name)
            if value is None or not PARAMETERS[name].match(value):
                raise MisuseError(f"{self.pattern}: {name}={value!r} may not stand in a topic")
            text = text.replace("{" + name + "}", value, 1)
        return text

    def filter(self, /, **values: str) -> str:
        """An MQTT filter for this row: parameters not given become ``+``."""
        text = self.pattern
        for name in self.parameters:
            value = values.get(name, "+")
            if value != "+" and not PARAMETERS[name].match(value):
                raise MisuseError(f"{self.pattern}: {name}={value!r} may not stand in a topic")
            text = text.replace("{" + name + "}", value, 1)
        return text

    def match(self, path: str) -> dict[str, str] | None:
        """The parameters of ``path`` if it belongs to this row and each value is legal, else None."""
        found = self.regex.match(path)
        if not found:
            return None
        values = found.groupdict()
        return values if all(PARAMETERS[n].match(v) for n, v in values.items()) else None


def _snapshot(
    pattern: str, payload: type[m.Payload] | None, writer: str, about: str, **more: object
) -> Topic:
    readers = more.pop("readers", VIEWERS)
    return Topic(pattern, Kind.SNAPSHOT, payload, frozenset({writer}), readers, about, **more)  # type: ignore[arg-type]  # one helper for all rows


def _event(pattern: str, payload: type[m.Payload] | None, writer: str, about: str, **more: object) -> Topic:
    readers = more.pop("readers", VIEWERS)
    return Topic(pattern, Kind.EVENT, payload, frozenset({writer}), readers, about, **more)  # type: ignore[arg-type]  # one helper for all rows


def _command(pattern: str, payload: type[m.Payload] | None, owner: str, about: str, **more: object) -> Topic:
    writers = more.pop("writers", OPERATORS)
    return Topic(pattern, Kind.COMMAND, payload, writers, frozenset({owner}), about, **more)  # type: ignore[arg-type]  # one helper for all rows


# ── The node ─────────────────────────────────────────────────────────────────────────────────────────────
INFO = _snapshot("info", m.Info, "watchdog", "What this node is and where it listens.")
NODE_CLAIM = _snapshot("claim", m.NodeClaim, "broker", "Which home has this node's name.")
HEALTH = _snapshot("health", m.NodeHealth, "watchdog", "Whether all is well, and if not, why.")
SERVICE_STATUS = _snapshot(
    "services/{self}/status", None, "services", "online or offline (last will).", form=Form.PLAIN
)
SERVICE_HEALTH = _snapshot(
    "services/{self}/health", m.ServiceHealth, "services", "Every 10 s: pid, memory, lag, queues."
)
ERRORS = _event(
    "errors", m.ErrorReport, "services", "A message without an id that could not be acted on.", qos=0
)
REPLIES = _event(
    "replies/{id}",
    m.Reply,
    "services",
    "The owner's answer to the command with this id.",
    readers=APPROVERS,
    urgent=True,
)

# ── Sessions ─────────────────────────────────────────────────────────────────────────────────────────────
SESSIONS_INDEX = _snapshot("sessions/index", m.SessionIndex, "ingest", "All sessions, shortly.")
SESSION_CREATE = _command("sessions/create", m.CreateSession, "tmux", "Open a session.")
SESSION_PROMPT = _command(
    "sessions/{session}/prompt", m.Prompt, "ingest", "Say something to the agent.", form=Form.EITHER
)
SESSION_INTERRUPT = _command("sessions/{session}/interrupt", m.SessionCommand, "ingest", "Stop the turn.")
SESSION_HIBERNATE = _command("sessions/{session}/hibernate", m.SessionCommand, "ingest", "Put it to sleep.")
SESSION_WAKE = _command(
    "sessions/{session}/wake", m.SessionCommand, "ingest", "Wake it with its conversation."
)
SESSION_REMOVE = _command("sessions/{session}/remove", m.SessionCommand, "ingest", "Forget an ended session.")
SESSION_SET = _command("sessions/{session}/set", m.SetSession, "ingest", "Change model, mode, title or pin.")
SESSION_HISTORY = _command("sessions/{session}/history", m.History, "ingest", "Ask for past events.")
SESSION_END = _command("sessions/{session}/end", m.SessionCommand, "tmux", "End a session.")
SESSION_STATE = _snapshot(
    "sessions/{session}/state", m.SessionState, "ingest", "The session's present truth."
)
SESSION_RESOURCES = _snapshot("sessions/{session}/resources", m.Resources, "watchdog", "Its memory and CPU.")
SESSION_EVENT = _event(
    "sessions/{session}/events/{type}",
    m.AnyEvent,
    "ingest",
    "Something happened in the session.",
    qos=0,
    verbs=tuple(m.EVENT_TYPES),
)

# ── Approvals ────────────────────────────────────────────────────────────────────────────────────────────
APPROVALS_PENDING = _snapshot("approvals/pending", m.PendingApprovals, "approvals", "What waits for a yes.")
APPROVAL_REQUEST = _snapshot(
    "approvals/{id}/request", m.ApprovalRequest, "approvals", "One question; cleared once decided."
)
APPROVAL_TOKEN = _snapshot(
    "approvals/{id}/tokens/{user}",
    m.ApprovalToken,
    "approvals",
    "That user's token for that approval; cleared once decided.",
    readers=frozenset({"approver", "operator"}),
    urgent=True,
)
APPROVAL_DECISION = _command(
    "approvals/{id}/decision", m.Decision, "approvals", "Approve or deny.", writers=APPROVERS
)
APPROVAL_SHOW = _command(
    "approvals/{id}/show", m.ShowApproval, "approvals", "The request with its whole input.", writers=APPROVERS
)
APPROVAL_OUTCOME = _event("approvals/{id}/outcome", m.ApprovalOutcome, "approvals", "What was decided.")
APPROVAL_EVENTS = _event("approvals/events", m.ApprovalEvent, "approvals", "Notices of the gate.")
AUDIT_VERIFY = _command("audit/verify", m.VerifyAudit, "approvals", "Prove the audit chain.")
AUDIT_EXPORT = _command("audit/export", m.ExportAudit, "approvals", "A page of the audit's rows.")
KEYS_ROTATE = _command("keys/rotate", m.RotateKeys, "approvals", "Make a new key for the tokens.")

# ── Users and devices ────────────────────────────────────────────────────────────────────────────────────
USER_ADD = _command("users/add", m.AddUser, "broker", "A new user of the bus.")
USER_REMOVE = _command("users/remove", m.RemoveUser, "broker", "Cut a user off.")
USER_LIST = _command("users/list", m.ListUsers, "broker", "All users but the services'.")
DEVICES = frozenset({"device"})
DEVICE_PENDING = _snapshot(
    "devices/{device}/pending",
    m.PendingApprovals,
    "approvals",
    "What this device may decide now.",
    readers=DEVICES,
)
DEVICE_APPROVE = _command(
    "devices/{device}/approve",
    m.DevicePress,
    "approvals",
    "A press: yes to the approval that it names, or, empty, to the one that waits.",
    writers=DEVICES,
    form=Form.EITHER,
)
DEVICE_DENY = _command(
    "devices/{device}/deny", m.DevicePress, "approvals", "The same with a no.", writers=DEVICES,
    form=Form.EITHER,
)  # fmt: skip
DEVICE_REPLY = _event(
    "devices/{device}/reply", m.DeviceReply, "approvals", "What became of the press.", readers=DEVICES
)
POLICY = _command(
    "policy/{verb}",
    m.PolicyCommand,
    "approvals",
    "Check, explain, replay, reload and list the rules; forget one that was remembered.",
    verbs=("check", "explain", "replay", "reload", "rules", "forget"),
)

# ── Ledger ───────────────────────────────────────────────────────────────────────────────────────────────
LEDGER_SESSION = _snapshot("ledger/sessions/{session}", m.LedgerSession, "ledger", "What a session spent.")
LEDGER_TOTAL = _snapshot("ledger/total", m.LedgerTotal, "ledger", "What the node spent.")
LEDGER_ALLOWANCES = _snapshot(
    "ledger/allowances", m.LedgerAllowances, "ledger", "What is left to spend; kept to while it is silent."
)
LEDGER_SESSION_BUDGET = _command(
    "ledger/sessions/{session}/budget", m.SetBudget, "ledger", "Set or lift a session's budget."
)
LEDGER_BUDGET = _command("ledger/budgets/{period}", m.SetBudget, "ledger", "Set or lift the node's budget.")
LEDGER_QUERY = _command("ledger/query", m.LedgerQuery, "ledger", "Totals by session, model, day or project.")
LEDGER_IMPORT = _command("ledger/import", m.LedgerImport, "ledger", "Read past transcripts.")
LEDGER_CHECK = _command("ledger/check", m.LedgerCheck, "ledger", "Compare all sums with their postings.")
LEDGER_EVENTS = _event("ledger/events", m.LedgerEvent, "ledger", "Levels, drift, runaways.")

# ── Watchdog ─────────────────────────────────────────────────────────────────────────────────────────────
BREAKER = _snapshot("breaker", m.Breaker, "watchdog", "Whether new work is let in.")
WATCHDOG_EVENTS = _event("watchdog/events", m.WatchdogEvent, "watchdog", "What the watchdog saw and did.")

# ── Between services ─────────────────────────────────────────────────────────────────────────────────────
FACTS = Topic(
    "facts/{producer}/{owner}",
    Kind.FACT,
    m.Fact,
    SERVICES,
    SERVICES,
    "Something that must be counted or decided once.",
    urgent=True,
    verbs=tuple(m.FACT_TYPES),
)
ACKS = _event(
    "acks/{owner}/{producer}", m.Ack, "services", "The owner has kept these facts.", readers=SERVICES
)
SPAWN_AGENT = _command("internal/tmux/spawn", m.SpawnAgent, "tmux", "Start the next agent.", writers=SERVICES)
STOP_AGENT = _command(
    "internal/tmux/stop", m.StopAgent, "tmux", "End the agent, keep the session.", writers=SERVICES
)
ADMIT = _command("internal/watchdog/admit", m.Admit, "watchdog", "May an agent be started?", writers=SERVICES)
ORPHAN_REMOVED = _command(
    "internal/watchdog/orphan", m.OrphanRemoved, "watchdog", "An orphan was removed.", writers=SERVICES
)
EVICT_AGENT = _command(
    "internal/ingest/evict", m.EvictAgent, "ingest", "Memory is short: put it to sleep.", writers=SERVICES
)
TYPE_TEXT = _command("internal/tmux/type", m.TypeText, "tmux", "Type into a screen.", writers=SERVICES)
JUDGE_TOOL = _command(
    "internal/approvals/judge", m.JudgeTool, "approvals", "May this tool run?", writers=SERVICES
)
TOOL_VERDICT = _command(
    "internal/ingest/verdict", m.ToolVerdict, "ingest", "What the gate says to that.", writers=SERVICES
)
END_AGENT = _command("internal/ingest/end", m.EndAgent, "ingest", "Let the agent end.", writers=SERVICES)

TABLE: tuple[Topic, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Topic))


def find(path: str, rows: Iterable[Topic] = TABLE) -> tuple[Topic, dict[str, str]] | None:
    """The row and parameters that a topic path belongs to, or None. Fixed words win over parameters."""
    best: tuple[Topic, dict[str, str]] | None = None
    for row in rows:
        values = row.match(path)
        if values is not None and (best is None or len(values) < len(best[1])):
            best = (row, values)
    return best
