"""What a newcomer types first."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.real
def test_the_demo_shows_three_sessions_says_that_the_model_is_scripted_and_leaves_nothing() -> None:
    before = set(Path(tempfile.gettempdir()).glob("pointsman-demo-*"))
    shown = subprocess.run(
        [sys.executable, "-m", "services.demo", "--once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "SCRIPTED" in shown.stdout
    for name in ("greeter", "talker", "asker"):
        assert name in shown.stdout
    assert "waiting approval" in shown.stdout
    assert set(Path(tempfile.gettempdir()).glob("pointsman-demo-*")) == before
