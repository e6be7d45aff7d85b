"""Fixtures of the gate's tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.services.approvals.stand import Run, Stack


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def runner(test: Callable[[Stack], Awaitable[None]]) -> None:
        async def main() -> None:
            await test(Stack(tmp_path))

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    return runner
