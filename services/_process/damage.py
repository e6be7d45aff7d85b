"""A damaged database: it is set aside, and nothing takes its place but by a person's hand.

Theory of operation. The file is renamed, with its log (``-wal``) and the log's index (``-shm``), to
``<name>.damaged-<UTC time>`` beside it: sqlite3 reads the three under the new name as it would under the old.
The database goes first, because one that stands without its log is whole in SQLite's eyes and only misses
what was kept last; whatever dies in between, the next start carries the rest after it. Then the service ends,
and is started again; as long as such a file lies there and no database stands in its place, it refuses. So
there are two ways on, and both are taken knowingly: to put a backup in its place, or to move the damaged file
out of the directory, and begin with an empty one.

That an empty file is damage as well can be said because `connect_store` makes databases under another name.
"""

from __future__ import annotations

import glob
import os
from datetime import UTC, datetime
from pathlib import Path

LOGS = ("-wal", "-shm")
MARK = ".damaged-"


def refusal(path: Path, gone: str) -> str | None:
    """Why this database must not be opened or made, or None. Read before each opening.

    ``gone``: what it held, in words for its user. What is found damaged is set aside.
    """
    if path.exists():
        return None if path.stat().st_size else set_aside(path, "it is empty", gone)
    aside = _newest(path)
    log = _beside(path, "-wal")
    if log.exists() and log.stat().st_size:
        if aside is None or _beside(aside, "-wal").exists():
            return set_aside(path, "it is gone, and only its log is left", gone)
        _move(path, aside)  # we died while we set it aside
    if aside is None:
        return None
    return f"{path} cannot be used: it was found damaged, and lies as {aside}. {_ways(path, aside, gone)}"


def set_aside(path: Path, what: str, gone: str) -> str:
    """Move the database away, and say so: ``what`` is wrong, where it lies, what went with it, what to do."""
    known = _newest(path)
    if known is not None and not path.exists() and not _beside(path, "-wal").exists():  # told a second time
        return f"{path} cannot be used: {what}. It lies as {known}. {_ways(path, known, gone)}"
    name = f"{path.name}{MARK}{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    aside, count = path.with_name(name), 1
    while any(place.exists() for place in (aside, *(_beside(aside, log) for log in LOGS))):
        count += 1
        aside = path.with_name(f"{name}.{count}")
    try:
        _move(path, aside)
    except OSError as error:  # e.g. a disk that is mounted for reading alone
        where = f"It could not be set aside ({error}), so it lies where it was"
        return f"{path} cannot be used: {what}. {where}. {_ways(path, path, gone)}"
    return (
        f"{path} cannot be used: {what}. It was set aside as {aside}, and nothing was put in its place. "
        f"{_ways(path, aside, gone)}"
    )


def _ways(path: Path, aside: Path, gone: str) -> str:
    return (
        f"Without it these are gone: {gone}. Until you act this service does not run, and what is meant for "
        f"it waits elsewhere. Put a backup at {path}, or what the sqlite3 program still reads in the "
        f"damaged one; or, to begin with an empty one, move {aside.name}* out of {path.parent} (and keep "
        'it). The commands stand in docs/operations.md, "A damaged database"'
    )


def _move(path: Path, aside: Path) -> None:
    for old, new in ((path, aside), *((_beside(path, log), _beside(aside, log)) for log in LOGS)):
        if old.exists():
            old.chmod(0o600)
            old.rename(new)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Names in it survive a power cut."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def unreplaced(directory: Path) -> list[tuple[Path, Path]]:
    """Databases that a person must do something about, and what was set aside of each."""
    places = sorted({path.with_name(path.name.partition(MARK)[0]) for path in directory.glob(f"*{MARK}*")})
    return [(path, aside) for path in places if not path.exists() and (aside := _newest(path))]


def _newest(path: Path) -> Path | None:
    """The latest of what was set aside."""
    found = path.parent.glob(f"{glob.escape(path.name)}{MARK}*")
    names = {name.removesuffix("-wal").removesuffix("-shm") for name in (one.name for one in found)}
    return path.with_name(max(names)) if names else None


def _beside(path: Path, log: str) -> Path:
    return path.with_name(path.name + log)
