"""`ccusage` from npm: the tool that people compare with. Kept in the cache of `cli_versions`, run offline.

`python -m tests.support.ccusage` installs it. 20.0.24: the binary of 20.0.26 is not everywhere on npm, and
18.x prices 1-hour cache writes too low.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.cli_versions import CliUnavailableError, cache_dir, npm_install

VERSION = "20.0.24"


def ccusage_path() -> Path:
    """Its program, installed when it is not there yet. Raises `CliUnavailableError`."""
    home = cache_dir() / f"ccusage-{VERSION}"
    program = home / "node_modules" / ".bin" / "ccusage"
    if not program.exists():
        npm_install(f"ccusage@{VERSION}", home)
    return program


def daily(config_dir: Path) -> dict[str, dict[str, float]]:
    """Dollars by day (UTC) and model, of the transcripts in ``<config_dir>/projects``."""
    done = subprocess.run(
        [ccusage_path(), "daily", "--offline", "--json", "--breakdown"],
        env={
            "PATH": os.environ["PATH"], "HOME": str(config_dir), "CLAUDE_CONFIG_DIR": str(config_dir),
            "TZ": "UTC",
        },
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return {
        day["period"]: {row["modelName"]: row["cost"] for row in day["modelBreakdowns"]}
        for day in found["daily"]
    }


if __name__ == "__main__":
    try:
        print(ccusage_path())
    except CliUnavailableError as error:
        sys.exit(f"ccusage: {error}")
