"""Whether a dashboard is one by Grafana's own types, as its library has them.

The library's ``from_json`` takes anything: it converts what it knows and drops the rest. So what it has read
is held against the types that it states, each value in it, and then written again: what it dropped is
missing then.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

register_default_plugins()  # the options, fields and queries of each kind of panel


def faults(document: dict[str, Any]) -> list[str]:
    """What is wrong with it, each with its place; empty if it is a dashboard."""
    try:
        read = Dashboard.from_json(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return [f"not to be read: {error!r}"]
    again = json.loads(JSONEncoder().encode(read))
    return [*_faults("dashboard", read, Dashboard), *_dropped("dashboard", document, again)]


def _dropped(at: str, given: Any, again: Any) -> Iterator[str]:
    """What is not in it any more; what the library adds are its defaults."""
    if isinstance(given, dict) and isinstance(again, dict):
        for key, value in given.items():
            yield from _dropped(f"{at}.{key}", value, again.get(key, "nothing of this name"))
    elif isinstance(given, list) and isinstance(again, list) and len(given) == len(again):
        for place, value in enumerate(given):
            yield from _dropped(f"{at}[{place}]", value, again[place])
    elif given != again:
        yield f"{at}: of {given!r} Grafana's library makes {again!r}"


def _faults(at: str, value: Any, kind: Any) -> Iterator[str]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, object):
        return
    if origin in (typing.Union, types.UnionType):
        meant = [one for one in arguments if isinstance(one, type) and isinstance(value, one)]
        others = [one for one in arguments if one is not types.NoneType]
        yield from min((list(_faults(at, value, one)) for one in meant or others), key=len)
    elif origin is typing.Literal:
        if value not in arguments:
            yield f"{at}: {value!r} is none of {arguments}"
    elif origin in (list, dict):
        if not isinstance(value, origin):
            yield f"{at}: {value!r} is no {origin.__name__}"
            return
        for key, item in value.items() if origin is dict else enumerate(value):
            yield from _faults(f"{at}[{key}]", item, arguments[-1])
    elif issubclass(kind, enum.Enum):
        if value not in list(kind):
            yield f"{at}: {value!r} is no {kind.__name__}"
    elif kind in (int, float, str, bool, types.NoneType):
        fits = isinstance(value, int | float if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            yield f"{at}: {value!r} is no {kind.__name__}"
    elif isinstance(value, dict) and hasattr(kind, "from_json"):  # the library left it as it came
        yield from _of_object(at, kind.from_json(value))
    elif not isinstance(value, kind) or isinstance(value, runtime.UnknownDataquery):
        yield f"{at}: {value!r} is no {kind.__name__}"
    else:
        yield from _of_object(at, value)


def _of_object(at: str, value: Any) -> Iterator[str]:
    """Its fields by the types of its own class: of queries and options the declared one says less."""
    for name, kind in typing.get_type_hints(type(value)).items():
        yield from _faults(f"{at}.{name}", getattr(value, name), kind)
    if isinstance(value, Panel):
        config = runtime.panelcfg_config(value.type_val)
        if config is None:
            yield f"{at}: Grafana has no panel {value.type_val!r}"
            return
        for name, part in (("options", value.options), ("custom", value.field_config.defaults.custom)):
            if not isinstance(part, dict | None):  # of a kind of panel that has types for them
                yield from _of_object(f"{at}.{name}", part)
