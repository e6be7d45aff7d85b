"""What the tests of ingest start with, where they need nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.services.ingest.support import Play


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """One session, whose agent is connected and has answered `initialize`."""
    play = Play(tmp_path / "ingest.sqlite")
    play.open()
    play.initialize()
    return play
