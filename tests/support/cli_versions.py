"""The real Claude Code CLI, in the versions that the tests are run against, kept in a cache outside the tree.

`claude_path(version)` returns an executable. It installs the version from npm on first use; later calls
cost two `stat`s. `python -m tests.support.cli_versions [VERSION...]` does that for all versions (or the
ones named) and prints one JSON line each: `{"version": "2.1.329", "path": "/.../claude"}`. It exits 1 with
a message when a tool is missing.

The cache is `$POINTSMAN_TEST_CACHE`, else `$XDG_CACHE_HOME/pointsman-tests`, else
`~/.cache/pointsman-tests`; each version lies in `claude-<version>/`. A version is installed into a
temporary directory beside it and then renamed, under a lock (`flock`): two processes at once do the work
once, and a killed install leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

VERSIONS = ("2.1.329", "2.1.119", "2.1.42")
PACKAGE = "@anthropic-ai/claude-code"

INSTALL_TIMEOUT_S = 600.0
"""npm fetches about 70 MB a version; a slow line needs minutes, a dead one must not hang a test run for
ever."""


class CliUnavailableError(RuntimeError):
    """The world lacks something (npm, node, the network): the message says what, and how to mend it."""


def cache_dir() -> Path:
    """The directory that holds all installed versions. It need not exist."""
    if own := os.environ.get("POINTSMAN_TEST_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pointsman-tests"


def claude_path(version: str = VERSIONS[0]) -> Path:
    """An executable of the real CLI of `version`, installed when it is not there yet.

    Raises `CliUnavailableError` when npm or node are missing, or npm fails (its last lines are there).
    """
    home = cache_dir() / f"claude-{version}"
    executable = home / "claude"
    if executable.exists():
        return executable
    npm_install(f"{PACKAGE}@{version}", home, done="claude", finish=lambda root: _put_entry(root, version))
    return executable


def is_installed(version: str) -> bool:
    """Whether `claude_path(version)` would return without installing."""
    return (cache_dir() / f"claude-{version}" / "claude").exists()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, which is made and left behind: removing it would let two processes
    in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def npm_install(
    package: str, home: Path, *, done: str = "node_modules", finish: Callable[[Path], None] | None = None
) -> None:
    """Install a package of npm into a directory that is there whole or not at all. Two at once do it once.

    ``finish`` adds what is missing before it appears; ``done`` is in the directory once it is whole. Raises
    `CliUnavailableError`.
    """
    with _locked(home.with_name(f"{home.name}.lock")):
        if not (home / done).exists():
            _install(package, home, finish)


def _install(package: str, home: Path, finish: Callable[[Path], None] | None) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        missing = " and ".join(name for name, found in (("npm", npm), ("node", node)) if found is None)
        raise CliUnavailableError(
            f"{missing} not found, needed to install {package} for the tests: install Node.js 18 "
            "or later with npm (Debian and Ubuntu: `apt install nodejs npm`; macOS: `brew install node`), "
            "then run it again"
        )
    temporary = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        command = [
            npm,
            "install",
            "--prefix",
            str(temporary),
            "--no-audit",
            "--no-fund",
            "--no-save",
            package,
        ]
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise CliUnavailableError(
                f"npm took over {INSTALL_TIMEOUT_S:.0f} s to install {package}"
            ) from None
        if ran.returncode != 0:
            last = "\n".join((ran.stderr or ran.stdout).splitlines()[-12:])
            raise CliUnavailableError(f"npm could not install {package} (exit {ran.returncode}):\n{last}")
        if finish is not None:
            finish(temporary)
        shutil.rmtree(home, ignore_errors=True)  # what is there is not whole: the leavings of someone's hand
        temporary.rename(home)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_entry(root: Path, version: str) -> None:
    """Put `root/claude`: a link to the native binary, or a wrapper that runs `cli.js` (2.1.42) with node.

    Both find their target relative to themselves, because `root` is renamed afterwards.
    """
    entry = root / "claude"
    modules = root / "node_modules"
    script = modules / PACKAGE / "cli.js"
    natives = [modules / "@anthropic-ai" / name / "claude" for name in _native_packages()]
    native = next((path for path in natives if path.exists()), None)
    if native is not None:
        native.chmod(0o755)
        entry.symlink_to(native.relative_to(root))
    elif script.exists():
        entry.write_text(
            '#!/bin/sh\nexec node "$(dirname "$(readlink -f "$0")")/node_modules/'
            + PACKAGE
            + '/cli.js" "$@"\n'
        )
        entry.chmod(0o755)
    else:
        raise CliUnavailableError(
            f"{PACKAGE}@{version} has neither cli.js nor a native binary for {sys.platform}/"
            f"{platform.machine()}; "
            "is npm configured to leave out optional dependencies (`omit=optional`)?"
        )


def _native_packages() -> Iterator[str]:
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(
        platform.machine().lower(), platform.machine()
    )
    musl = system == "linux" and not platform.libc_ver()[0]
    names = [f"claude-code-{system}-{machine}", f"claude-code-{system}-{machine}-musl"]
    yield from (reversed(names) if musl else names)


def main(arguments: list[str]) -> int:
    """Install the versions named (default: all) and print where each lies. Returns the exit code."""
    for version in arguments or VERSIONS:
        try:
            path = claude_path(version)
        except CliUnavailableError as error:
            print(f"cli_versions: {error}", file=sys.stderr)
            return 1
        print(json.dumps({"version": version, "path": str(path)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
