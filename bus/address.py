"""Where the broker is, and what to say when it cannot be had: each text names the fault and what to do."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from os import strerror
from typing import Any, Protocol

from bus.errors import BusDownError

_BAD_CREDENTIALS = ("Bad user name or password", "Not authorized")
_START_IT = "Is Pointsman running? Start it with `make run` (or `supervisord -c supervisord.conf`)"


@dataclass(frozen=True, slots=True)
class BusAddress:
    """Where the broker is now, and as whom we come. ``password_hint`` says where the password was found."""

    host: str
    port: int
    username: str
    password: str
    tls: ssl.SSLContext | None = None
    password_hint: str = ""
    own: bool = False  # only a program of our own may listen there


class Log(Protocol):
    """What this module needs of a log."""

    def info(self, event: str, /, **fields: Any) -> None: ...
    def warning(self, event: str, /, **fields: Any) -> None: ...


class RefusedByBrokerError(BusDownError):
    """The broker is there and does not let us in: trying again helps only when something changes."""


def unreadable(error: OSError) -> BusDownError:
    """The address itself cannot be read."""
    return BusDownError(f"where the bus is cannot be read: {error}. {_START_IT}")


def unreachable(address: BusAddress, error: OSError) -> BusDownError:
    """Nobody listens there, or not whom we trust."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return BusDownError(
            f"the broker at {_where(address)} has a certificate that is not trusted: {error.verify_message}. "
            "bus.tls_ca must be the certificate of the CA that signed it, for the name in bus.host"
        )
    if isinstance(error, ssl.SSLError):
        return BusDownError(f"no TLS with the broker at {_where(address)}: {error.reason or error}")
    return BusDownError(f"no broker answers at {_where(address)}: {_reason(error)}. {_mend(address)}")


def taken_over(address: BusAddress, uid: int) -> BusDownError:
    """Somebody else listens where our broker was."""
    return BusDownError(
        f"a program of another user (uid {uid}) listens at {_where(address)}, where the broker of this "
        f"home was: it is not told the password. {_START_IT}"
    )


def silent(address: BusAddress, after_s: float) -> BusDownError:
    """Somebody listens there who is no broker, or a stuck one."""
    return BusDownError(
        f"{_where(address)} accepts the connection but does not answer as an MQTT broker within "
        f"{after_s:.0f} s. {_mend(address)}"
    )


def deaf(address: BusAddress, what: str, for_s: float) -> BusDownError:
    """A broker let us in, and answers, but has stopped doing its work for us."""
    return BusDownError(
        f"the broker at {_where(address)} has acknowledged nothing for {for_s:.0f} s, while {what} waited: "
        "it was left, to connect anew. If that goes on, restart the broker"
    )


def broke(address: BusAddress) -> BusDownError:
    """The connection stood, or was about to, and is gone."""
    return BusDownError(f"the connection to the broker at {_where(address)} broke. {_mend(address)}")


def refused(address: BusAddress, reason: str) -> RefusedByBrokerError:
    """``reason`` is the CONNACK's."""
    if reason not in _BAD_CREDENTIALS:
        return RefusedByBrokerError(f"the broker at {_where(address)} refuses the connection: {reason}")
    if not address.username:
        return RefusedByBrokerError(
            f"the broker at {_where(address)} wants a user and a password: set bus.username and "
            "bus.password_file"
        )
    read_from = f" (read from {address.password_hint})" if address.password_hint else ""
    return RefusedByBrokerError(
        f"the broker at {_where(address)} refuses user {address.username!r}: "
        f"its password is wrong{read_from}. Either Pointsman runs with another home (then set "
        "POINTSMAN_HOME), or another broker listens there, or it was changed: see `pointsman bus`"
    )


def _mend(address: BusAddress) -> str:
    return _START_IT if address.own else "Is it running there? See bus.host and bus.port"


def _where(address: BusAddress) -> str:
    return f"{address.host}:{address.port}"


def _reason(error: OSError) -> str:
    cause: BaseException = error
    if isinstance(cause.__cause__, BaseExceptionGroup):  # one error for each address of the host
        cause = cause.__cause__.exceptions[0]
    return strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else str(error)
