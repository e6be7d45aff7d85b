"""The node and its services: what it is, how it is, and what the watchdog sees and does."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from bus.messages.envelope import Payload, Time


class Info(Payload, frozen=True, kw_only=True):
    node: str
    version: str
    contract: int
    broker: str
    started_at: Time
    services: list[str]
    endpoints: dict[str, Any]


class NodeClaim(Payload, frozen=True, kw_only=True):
    """Which home a node's name belongs to, on a broker that others use too. ``held``: it is settled."""

    home: str
    host: str
    at: Time
    held: bool


class NodeHealth(Payload, frozen=True, kw_only=True):
    status: str  # healthy | degraded | critical
    reasons: list[str]
    services: dict[str, str]  # online | offline | stale
    sessions: dict[str, int]
    memory_used_ratio: float
    disk_free_bytes: int
    uptime_s: float
    at: Time


class ServiceHealth(Payload, frozen=True, kw_only=True):
    """Every 10 s from each service; its age is how a stuck service is noticed."""

    service: str
    pid: int
    rss_bytes: int
    cpu_percent: float
    loop_lag_ms: float
    uptime_s: float
    queue_depth: int
    errors_total: int
    doing: str | UnsetType = UNSET  # something that takes long, before it can do its work
    at: Time


class Breaker(Payload, frozen=True, kw_only=True):
    state: str  # closed | open | half_open
    cause: str | None
    reason: str
    used_bytes: int
    budget_bytes: int
    used_ratio: float
    since: Time
    retry_at: Time | None
    evicted: list[str]


class Resources(Payload, frozen=True, kw_only=True):
    session: str
    uid: str
    pid: int
    processes: int
    rss_bytes: int
    cpu_percent: float
    at: Time


class WatchdogEvent(Payload, frozen=True, kw_only=True):
    at: Time
    action: str
    session: str | UnsetType = UNSET
    service: str | UnsetType = UNSET
    reason: str
