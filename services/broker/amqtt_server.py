"""amqtt as a process of its own, because it lives in asyncio: ``python -m services.broker.amqtt_server
<file>``.

The file is what `services.broker.core.amqtt_conf` makes. amqtt's own password plugin costs 144 ms of CPU for
each connection and its access rules lose messages, so the plugin below takes the place of both: a hash of a
random password compared in constant time, and one trust domain (contract, section 2). The process ends by
signal, at once: it keeps nothing, and its own orderly end may hang.

What amqtt 0.12.1 does to newcomers is mended here, too. It looks through everybody's subscriptions and hands
each newcomer every retained message that any of them matches, asked for or not. When one is made or dropped
meanwhile, which is often so when all connect again at once, that ends in an exception and the newcomer is cut
off (measured, six clients that come and go: one connection in ten, and fifty messages to each of the others).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.broker import Broker
from amqtt.contexts import BaseContext
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from bus.acl import check_digest, read_digests


class DigestAuth(BaseAuthPlugin):  # type: ignore[misc,unused-ignore]  # amqtt ships no types
    """Lets in who is in the password file with that password."""

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        path = self._get_config_option("password_file")
        self._digests = read_digests(Path(path).read_text("utf-8"))

    async def authenticate(self, *, session: Session) -> bool:
        return check_digest(self._digests, session.username, session.password)

    @dataclass
    class Config:
        """amqtt reads a plugin's options from this."""

        password_file: str = ""


class Subscriptions(dict[str, list[tuple[Session, int]]]):
    """By filter. Who goes through them goes through those that there were, whoever comes meanwhile."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))


class MendedBroker(Broker):  # type: ignore[misc,unused-ignore]  # amqtt ships no types
    """amqtt, which tells newcomers what they asked for."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._subscriptions = Subscriptions()

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        if any(theirs is session for theirs, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)


def broker_config(settings: dict[str, Any]) -> dict[str, Any]:
    """amqtt's configuration for our settings."""
    return {
        "listeners": settings["listeners"],
        "plugins": {
            f"{DigestAuth.__module__}.{DigestAuth.__qualname__}": {"password_file": settings["password_file"]}
        },
    }


async def run(settings: dict[str, Any]) -> None:
    broker = MendedBroker(broker_config(settings))
    await broker.start()
    await asyncio.Event().wait()


def main(path: str) -> None:
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    asyncio.run(run(json.loads(Path(path).read_text("utf-8"))))


if __name__ == "__main__":
    # Imported again under its own name: amqtt loads the plugin by it, and must find this very module.
    from services.broker.amqtt_server import main as main_by_name

    main_by_name(sys.argv[1])
