"""A stage for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.cli.support import Stage


@pytest.fixture
def stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Stage:
    return Stage(tmp_path, capsys)
