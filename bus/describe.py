"""The table of topics for people: ``python -m bus.describe > docs/topics.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import msgspec

from bus import messages as m
from bus.topics import TABLE, Form, Kind, Topic

_HEAD = """# Topics

<!-- Made from bus/topics.py by `python -m bus.describe > docs/topics.md`: do not edit. -->

All topics stand below `<root>/<node>/` (`pointsman/<host name>/` unless configured). Payloads are JSON
objects unless *plain* (bare text) is said. Readers ignore fields that they do not know. The same as a machine
reads it: [asyncapi.json](asyncapi.json).

- **snapshot**: the owner's present truth, retained, QoS 1; an empty payload means that it is gone.
- **event**: something happened; may be lost.
- **command**: asks an owner to act; with an `id` it acts once in 24 hours and is answered on `replies/<id>`.
  Publish it without `retain`: what stands retained is ignored, but MQTT 3.1.1 tells nobody who is already
  there that a message is retained, so it acts when it is published.
- **fact**: something that is counted or decided once; internal, between services.

Writers and readers are services, or roles: `viewer` ⊂ `approver` ⊂ `operator`, `device`, `services` (any of
them).
"""

_TITLES = {
    Kind.SNAPSHOT: "Snapshots",
    Kind.EVENT: "Events",
    Kind.COMMAND: "Commands",
    Kind.FACT: "Facts",
}


def topics_page(rows: Iterable[Topic] = TABLE) -> str:
    """docs/topics.md."""
    table = tuple(rows)
    parts = [_HEAD]
    for kind, title in _TITLES.items():
        parts += [
            f"\n## {title}\n",
            "| topic | writers | readers | QoS | payload | about |",
            "|---|---|---|---|---|---|",
        ]
        parts += [_line(row) for row in table if row.kind is kind]
    parts.append("\n## Payloads\n")
    parts.append("`?` may be absent, `| null` may be null. Times are RFC 3339 in UTC.\n")
    for payload in payloads(table):
        parts += _payload(payload)
    return "\n".join(parts) + "\n"


def payloads(rows: Iterable[Topic] = TABLE) -> list[type[m.Payload]]:
    """Every payload type that a row carries; an event's own types in place of their base."""
    found: dict[type[m.Payload], None] = {}
    for row in rows:
        for payload in row_payloads(row):
            found[payload] = None
    return sorted(found, key=lambda payload: payload.__name__)


def row_payloads(row: Topic) -> list[type[m.Payload]]:
    """The types that one row carries."""
    if row.payload is m.AnyEvent:
        return [m.EVENT_TYPES[name] for name in row.verbs]
    return [] if row.payload is None else [row.payload]


def _line(row: Topic) -> str:
    names = [f"[{p.__name__}](#{p.__name__.lower()})" for p in row_payloads(row)]
    if row.form is not Form.JSON:
        names.append("*plain*")
    topic = row.pattern.replace("{self}", "{service}")
    return (
        f"| `{topic}` | {_actors(row.writers)} | {_actors(row.readers)} | {row.qos} "
        f"| {' or '.join(names) if len(names) < 4 else ', '.join(names)} | {row.about} |"
    )


def _actors(actors: frozenset[str]) -> str:
    """The least of the roles says it all: the ones above it may as well."""
    for role, above in (("viewer", {"approver", "operator"}), ("approver", {"operator"})):
        if role in actors:
            actors = actors - above
    return ", ".join(sorted(actors))


def _payload(payload: type[m.Payload]) -> list[str]:
    lines = [f"### {payload.__name__}\n"]
    doc = " ".join((payload.__doc__ or "").split())
    if doc:
        lines.append(doc + "\n")
    lines += ["| field | type |", "|---|---|"]
    schema = msgspec.json.schema(payload, ref_template="#{name}")
    definition = schema["$defs"][payload.__name__] if "$defs" in schema else schema
    required = set(definition.get("required", ()))
    for name, field in definition["properties"].items():
        lines.append(f"| `{name}`{'' if name in required else '?'} | {_type(field)} |")
    return [*lines, ""]


def _type(schema: dict[str, object]) -> str:
    match schema:
        case {"$ref": str(ref)}:
            return ref.removeprefix("#")
        case {"anyOf": list(options)}:
            return " \\| ".join(_type(option) for option in options)
        case {"enum": list(values)}:
            return " \\| ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": dict(items)}:
            return f"list of {_type(items)}"
        case {"type": "array"}:
            return "list"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {_type(values)}"
        case {"format": "date-time"}:
            return "time"
        case {"type": str(name)}:
            return name
    return "any"


if __name__ == "__main__":
    sys.stdout.write(topics_page())
