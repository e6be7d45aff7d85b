"""From rows to full topics and back, quickly: what this process subscribed to, and what a topic means to it.

Topics come by the ten thousand a second and repeat: a bounded cache answers for those seen before, and only
rows with as many levels as the topic are looked at for the others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from bus.errors import MisuseError
from bus.topics import PARAMETERS, TABLE, Topic, find

# Remembered in either direction, some 500 bytes each; approvals have new ones all the time.
CACHE = 4_096


@dataclass(frozen=True, slots=True)
class Route:
    """What a topic is. ``wanted``: `subscribe` asked for it; ``owned``: `own` did."""

    row: Topic
    values: dict[str, str]
    node: str
    path: str
    wanted: bool
    owned: bool


class Router:
    """``service`` fills ``{self}`` where this process means itself; None for clients."""

    def __init__(
        self,
        *,
        root: str,
        node: str,
        service: str | None,
        all_nodes: bool = False,
        rows: Iterable[Topic] = TABLE,
    ) -> None:
        for word, what in ((root, "bus.root"), (node, "node.name")):
            if not PARAMETERS["service"].match(word):
                raise MisuseError(f"{what} = {word!r} may not stand in a topic")
        self.node = node
        self._service = service
        self._prefix = f"{root}/"
        self._all_nodes = all_nodes
        self._by_levels: dict[int, list[Topic]] = defaultdict(list)
        for row in rows:
            self._by_levels[row.pattern.count("/")].append(row)
        self._wanted: dict[Topic, list[dict[str, str]]] = {}
        self._owned: set[Topic] = set()
        self._filters: dict[str, int] = {}  # filter → QoS
        self.topic = lru_cache(CACHE)(self._topic)
        """`topic(row, (("session", "x"), …))`: the full topic, checked. Raises `MisuseError`."""
        self.route = lru_cache(CACHE)(self._route)
        """`route(topic)`: what a full topic means, or None if it belongs to no row."""

    def _topic(self, row: Topic, values: tuple[tuple[str, str], ...]) -> str:
        return self._full(row.path(**dict(values)), self.node)

    def _full(self, path: str, node: str) -> str:
        return path[1:] if path.startswith("/") else f"{self._prefix}{node}/{path}"

    def subscribe(self, row: Topic, values: dict[str, str]) -> tuple[str, int]:
        """Remember a subscription. Returns its filter and QoS. Raises `MisuseError` for bad parameters."""
        if not values.keys() <= set(row.parameters):
            raise MisuseError(f"{row.pattern} has {row.parameters}, not {tuple(values)}")
        self._wanted.setdefault(row, []).append(dict(values))
        return self._remember(row, values)

    def filter(self, row: Topic) -> str:
        """The filter of a row that was subscribed as a whole."""
        return self._full(row.filter(), "+" if self._all_nodes else self.node)

    def own(self, row: Topic) -> tuple[str, int]:
        """Remember that this process owns a row. Returns the filter to watch it by, and its QoS."""
        self._owned.add(row)
        return self._remember(row, self._mine(row))

    def only_owned(self, row: Topic) -> str | None:
        """The filter by which a row is watched, unless somebody here wants its messages as well."""
        return None if row in self._wanted else self._full(row.filter(**self._mine(row)), self.node)

    def add(self, topic: str, qos: int) -> None:
        """Remember a filter that is not a row's whole, e.g. one reply."""
        self._filters[topic] = qos

    def remove(self, topic: str) -> None:
        self._filters.pop(topic, None)

    def filters(self) -> list[tuple[str, int]]:
        """All to be asked for on every connect."""
        return list(self._filters.items())

    def _mine(self, row: Topic) -> dict[str, str]:
        if "self" not in row.parameters:
            return {}
        if self._service is None:
            raise MisuseError(f"{row.pattern}: only a service has a name")
        return {"self": self._service}

    def _remember(self, row: Topic, values: dict[str, str]) -> tuple[str, int]:
        path = row.filter(**values)
        topic = self._full(path, "+" if self._all_nodes else self.node)
        self._filters[topic] = row.qos
        self.route.cache_clear()
        return topic, row.qos

    def _route(self, topic: str) -> Route | None:
        node, path = self.node, "/" + topic
        if topic.startswith(self._prefix):
            node, _, path = topic[len(self._prefix) :].partition("/")
        found = find(path, self._by_levels.get(path.count("/"), ()))
        if found is None:
            return None
        row, values = found
        wanted = any(all(values[k] == v for k, v in want.items()) for want in self._wanted.get(row, ()))
        owned = row in self._owned and all(values[k] == v for k, v in self._mine(row).items())
        return Route(row, values, node, path, wanted, owned and node == self.node)
