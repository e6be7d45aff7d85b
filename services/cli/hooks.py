"""Verbs about hooks: have Claude Code sessions that are started elsewhere tell us what they do.

`install` puts our hooks into a settings file, `remove` takes them out again. What the file was before is kept
in the home, with the hash of what we wrote: if that still stands there, removing restores the very bytes.
The file then holds a token, so it is made readable by its owner alone; the token opens nothing but the
listener for hooks.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import tempfile
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bus.errors import RefusedError
from services._process import hook_settings
from services._process.config import user_home
from services.cli import settings_file
from services.cli.line import World
from services.cli.out import say, say_json
from services.cli.settings_file import SettingsError

PRIVATE = 0o600


class _Before(msgspec.Struct):
    """A settings file as it was. ``data`` (base64) None: there was none. ``written``: hash of ours."""

    path: str
    data: str | None
    mode: int
    written: str
    made: list[str] = []  # directories that were made for it


async def install(world: World, args: Namespace) -> int:
    path = _path(world, args)
    hooks = _hooks(world)
    data, mode = _read(path)
    try:
        there = settings_file.ours(data or b"", _is_ours(world))
        if there == _flat(hooks):
            return _said(world, path, "installed", "The hooks are there already, in {path}.")
        new = settings_file.with_hooks(data or b"", hooks, _is_ours(world))
    except SettingsError as error:
        raise _malformed(path, error) from None
    known = _known(world, path)
    if known is not None and data is not None and _hash(data) == known.written:
        before = msgspec.structs.replace(known, written=_hash(new))  # what was there before the first time
    else:
        kept = None if data is None else base64.b64encode(data).decode()
        before = _Before(str(path), kept, mode, _hash(new), _missing(path.parent))
    _replace(path, new, PRIVATE)
    world.home.write_secret(_name(path), msgspec.json.encode(before).decode())
    return _said(
        world, path, "installed",
        "Hooks installed in {path}.\nClaude Code sessions that are started from now on appear in "
        "`pointsman ls` and ask here as well as on their screen.\n"
        "Take them out with `pointsman hooks remove`.",
        _disabled(settings_file.parse(new)),
    )  # fmt: skip


async def remove(world: World, args: Namespace) -> int:
    path = _path(world, args)
    data, mode = _read(path)
    known = _known(world, path)
    if data is None:
        _forget(world, path)
        return _said(world, path, "not installed", "There are no hooks: {path} is not there.")
    try:
        if known is not None and _hash(data) == known.written:
            _restore(path, known)
        elif settings_file.ours(data, _is_ours(world)):
            _replace(path, settings_file.without_hooks(data, _is_ours(world)), known.mode if known else mode)
        else:
            _forget(world, path)
            return _said(world, path, "not installed", "There are no hooks of ours in {path}.")
    except SettingsError as error:
        raise _malformed(path, error) from None
    _forget(world, path)
    return _said(world, path, "not installed", "Hooks removed from {path}.")


async def status(world: World, args: Namespace) -> int:
    path = _path(world, args)
    data, mode = _read(path)
    problems = []
    try:
        there = settings_file.ours(data or b"", _is_ours(world))
        settings = settings_file.parse(data or b"")
    except SettingsError as error:
        raise _malformed(path, error) from None
    if there:
        if mode & 0o077:
            problems.append(f"others may read it, and the token in it: do `chmod 600 {path}`")
        problems += _disabled(settings)
        if there != _flat(_hooks(world)):
            problems.append("they are of another version or port: `pointsman hooks install` renews them")
    word = "installed" if there else "not installed"
    text = "The hooks are installed in {path}." if there else "There are no hooks of ours in {path}."
    return _said(world, path, word, text, problems)


def _disabled(settings: dict[str, Any]) -> list[str]:
    return (
        ["`disableAllHooks` is set in it: Claude Code runs none"] if settings.get("disableAllHooks") else []
    )


def _path(world: World, args: Namespace) -> Path:
    """The settings file that is meant; links are followed, so that they stay links."""
    if args.project:
        path = Path.cwd() / ".claude" / "settings.local.json"
    else:
        own = world.environ.get("CLAUDE_CONFIG_DIR")
        path = (Path(own) if own else user_home(world.environ) / ".claude") / "settings.json"
    return path.resolve()


def _flat(hooks: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {event: [hook for group in groups for hook in group["hooks"]] for event, groups in hooks.items()}


def _hooks(world: World) -> dict[str, list[Any]]:
    token = world.home.path / "secrets" / "hooks-token"
    port = world.home.endpoints().get("ingest", {}).get("hooks_port")
    if not token.exists() or port is None:
        raise RefusedError(
            "unavailable", "Pointsman has not been started with this home yet: do `make run` first"
        )
    url = hook_settings.url(int(port))
    return hook_settings.hooks(url, token.read_text("utf-8").strip(), world.home.path, _secret(world))


def _secret(world: World) -> Path:
    return world.home.path / "secrets" / hook_settings.TOKEN_FILE


def _is_ours(world: World) -> settings_file.IsOurs:
    return lambda hook: hook_settings.is_ours(hook, world.home.path, _secret(world))


def _read(path: Path) -> tuple[bytes | None, int]:
    try:
        return path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None, PRIVATE
    except OSError as error:
        raise RefusedError("unavailable", f"{path} cannot be read: {error.strerror}") from None


def _malformed(path: Path, error: SettingsError) -> RefusedError:
    text = f"{path} {error}. Nothing was changed: mend it, then try again"
    return RefusedError("bad_request", text)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _name(path: Path) -> str:
    return f"hooks/{_hash(os.fsencode(path))[:32]}.json"


def _known(world: World, path: Path) -> _Before | None:
    try:
        return msgspec.json.decode((world.home.path / "secrets" / _name(path)).read_bytes(), type=_Before)
    except (OSError, msgspec.DecodeError):
        return None


def _forget(world: World, path: Path) -> None:
    with suppress(OSError):
        (world.home.path / "secrets" / _name(path)).unlink()


def _missing(folder: Path) -> list[str]:
    """The directories that are not there yet, innermost first."""
    found = []
    while not folder.exists():
        found.append(str(folder))
        folder = folder.parent
    return found


def _restore(path: Path, before: _Before) -> None:
    if before.data is not None:
        _replace(path, base64.b64decode(before.data), before.mode)
        return
    path.unlink()
    for folder in before.made:
        with suppress(OSError):  # something else lies in it now
            Path(folder).rmdir()


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all. A file that its owner has made read-only stays as it is."""
    try:
        if path.exists() and not path.stat().st_mode & stat.S_IWUSR:
            raise RefusedError(
                "unavailable", f"{path} is read-only: do `chmod u+w {path}` first, if you mean it"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(handle, "wb") as file:
            os.fchmod(handle, mode)
            file.write(content)
            file.flush()
            os.fsync(handle)
        Path(name).replace(path)
    except OSError as error:
        raise RefusedError("unavailable", f"{path} cannot be written: {error.strerror}") from None


def _said(world: World, path: Path, word: str, text: str, problems: list[str] | None = None) -> int:
    if world.json:
        say_json({"hooks": word, "file": str(path), "problems": problems or []})
    else:
        say("\n".join([text.format(path=path), *(problems or [])]))
    return 0
