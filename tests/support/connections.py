"""A connection to the bus for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import trio

from bus.client import MqttBus

CONNECT_S = 60.0
"""A millisecond where all is well; this is for a machine under load."""

AnyBus = TypeVar("AnyBus", bound=MqttBus)


@asynccontextmanager
async def connected(bus: AnyBus, timeout_s: float = CONNECT_S) -> AsyncIterator[AnyBus]:
    """Run ``bus`` beside the block, which begins once it is connected.

    Raises `BusDownError` when there is no connection in time; errors of the block come out as they are, not
    in a group.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run)
        try:
            await bus.wait_connected(timeout_s)
            yield bus
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # raised again below, outside of the nursery
            failure = error
        with trio.CancelScope(shield=True):
            await bus.stop()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
