"""The smallest service, run as a process by test_run: ``python -m tests.services.process.toy <what>``.

It takes the ledger's place, so that its name is one of `services.SERVICES`.
"""

from __future__ import annotations

import os
import sys
import time

import trio

from services._process.context import Context
from services._process.errors import ConfigError, WorldError
from services._process.run import run_service


async def serve(context: Context) -> None:
    context.log.info("serving")
    print("serving", flush=True)
    match sys.argv[1]:
        case "return":
            return
        case "bug":
            raise ValueError("a bug of the toy")
        case "bug later":
            while not context.bus.connected:
                await context.bus.receive()
            raise ValueError("a bug of the toy")
        case "group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(_fail, WorldError("the disk is full: make room"))
        case "config":
            raise ConfigError("bus.listen = 'x': needs TLS")
        case "both":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_fail, WorldError("the disk is full: make room"))
                nursery.start_soon(_fail, KeyError("and a bug"))
        case "stubborn":
            try:
                await trio.sleep_forever()
            finally:
                time.sleep(60)  # noqa: ASYNC251  # a blocked loop is what the deadline is for
        case "talk":
            await _talk(context)
        case "tidy":
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.2)
                print("tidied", flush=True)
        case _:
            await trio.sleep_forever()


async def _talk(context: Context) -> None:
    """Log as many lines in all as the file `wanted` says, and write into `said` how many there were."""
    wanted, said, number = context.home.path / "wanted", context.home.path / "said", 0
    print("a library's word", flush=True)
    os.write(1, b"a child's word\n")
    while True:
        text = wanted.read_text() if wanted.exists() else ""
        while text.endswith(".") and number < int(text[:-1]):
            number += 1
            context.log.info(
                "talk", number=number, pad="x" * (number * 37 % 900), mark="<!--XSUPERVISOR:BEGIN-->"
            )
        said.write_text(f"{number}.")
        await trio.sleep(0.02)


async def _fail(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    run_service("ledger", serve)
