"""A service's `Context` for tests: any bus, any clock, a home of its own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from bus.api import Bus
from services._process.config import load_config
from services._process.context import Context
from services._process.home import Home
from services._process.logs import Log, silent_log


def context_for(
    bus: Bus,
    service: str,
    home: Path,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    log: Log | None = None,
    **settings: str,
) -> Context:
    """``settings`` are environment variables without their prefix: ``bus_broker="amqtt"``."""
    environ = {"POINTSMAN_HOME": str(home), "POINTSMAN_NODE_NAME": bus.node, "HOME": str(home)}
    environ |= {f"POINTSMAN_{key.upper()}": value for key, value in settings.items()}
    registry = CollectorRegistry()
    return Context(
        service=service,
        config=load_config(environ),
        home=Home(home),
        bus=bus,
        log=log or silent_log(service),
        registry=registry,
        errors=Counter("pointsman_errors", "by code", ["code"], registry=registry),
        now=now,
    )
