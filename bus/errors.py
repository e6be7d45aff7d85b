"""Errors of the bus, named by whose fault they are.

Nothing below ``bus`` raises anything else on purpose; services translate at their own boundary.
"""

from __future__ import annotations

# The error codes that replies and the command line may carry (contract, section 9).
ERROR_CODES = frozenset(
    {
        "bad_request", "unknown_session", "bad_name", "name_taken", "bad_cwd", "agent_missing",
        "agent_version", "busy", "unknown_approval", "bad_token", "expired", "already_decided",
        "ambiguous", "level_too_high", "not_allowed", "budget_exhausted", "breaker_open", "too_large",
        "unavailable", "internal",
    }
)  # fmt: skip


class BusError(Exception):
    """Base; never raised itself."""


class MisuseError(BusError):
    """Our fault: a topic, parameter or payload that this process may not send. A bug, never caught."""


class PeerError(BusError):
    """The peer's fault: a payload that does not fit its topic.

    ``code`` is one of `ERROR_CODES`, ``request_id`` the command's id where one could be read.
    """

    def __init__(self, code: str, message: str, request_id: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.request_id = request_id


class BusDownError(BusError):
    """The world's fault: the broker cannot be reached, or refuses us. The text says what to do."""


class RefusedError(BusError):
    """The user's fault (or bad luck): the owner answered a command with an error.

    ``code`` is one of `ERROR_CODES`; ``details`` is what the owner added, or None.
    """

    def __init__(self, code: str, message: str, details: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
