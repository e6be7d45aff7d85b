"""What the shared shell hands to a service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter

from bus.api import Bus
from services._process.config_keys import Config
from services._process.home import Home
from services._process.logs import Log
from services._process.output import Output


@dataclass(frozen=True, slots=True)
class Context:
    """Everything of the world that a service's shell may use, so that tests can give it another world.

    ``now`` is the wall clock in UTC; ``errors`` counts by error code; ``doing`` tells in the service's health
    what takes long before it can do its work (empty: it is over). ``output`` leads to supervisord, where that
    started us.
    """

    service: str
    config: Config
    home: Home
    bus: Bus
    log: Log
    registry: CollectorRegistry
    errors: Counter
    now: Callable[[], datetime]
    doing: Callable[[str], None] = lambda _what: None
    output: Output | None = None
