"""The machine's own time zone, with its rules: days are the node's, not UTC's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

LOCALTIME = Path("/etc/localtime")


def local_zone(environ: Mapping[str, str], localtime: Path = LOCALTIME) -> tzinfo:
    """What TZ names (a zone, or a file), else the machine's setting, else UTC."""
    name = environ.get("TZ", "").removeprefix(":")
    if name.startswith("/"):
        localtime = Path(name)
    elif name:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return UTC  # as the C library does for a name that it does not know
    try:
        with localtime.open("rb") as file:
            return ZoneInfo.from_file(file, key=str(localtime.resolve()))
    except (OSError, ValueError):
        return UTC
