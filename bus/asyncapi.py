"""The table of topics for machines: ``python -m bus.asyncapi > docs/asyncapi.json`` (AsyncAPI 3.0.0).

The document speaks for Pointsman: it receives commands and sends snapshots and events.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from bus.describe import row_payloads
from bus.topics import PARAMETERS, TABLE, Form, Kind, Topic

CONTRACT = "1.0.0"
_BINDING = "0.2.0"  # https://github.com/asyncapi/bindings/tree/master/mqtt
_REFERENCE = "#/components/schemas/{name}"
_ABOUT = {
    "root": "Configurable; `pointsman`.",
    "node": "The machine: a slug, by default its host name.",
    "session": "A session's name.",
    "service": "A service's name.",
    "self": "The writing service's own name.",
    "user": "The reader's own user name.",
    "device": "The device's own user name.",
    "producer": "The service that has something to tell.",
    "owner": "The service that keeps it.",
    "id": "An id: of an approval, or of the command that is answered.",
    "type": "What happened.",
    "verb": "What to do.",
    "period": "Which budget of the node.",
}


def document(rows: Iterable[Topic] = TABLE) -> dict[str, Any]:
    """The AsyncAPI document."""
    table = tuple(rows)
    types = list(dict.fromkeys(p for row in table for p in row_payloads(row)))
    _, schemas = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Pointsman",
            "version": CONTRACT,
            "description": "Supervises Claude Code sessions over MQTT. Made from bus/topics.py: do not edit.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "node": {
                "host": "127.0.0.1:1883",
                "protocol": "mqtt",
                "protocolVersion": "3.1.1",
                "description": "`pointsman bus` says where it is, and with which password.",
                "security": [{"$ref": "#/components/securitySchemes/password"}],
            }
        },
        "channels": {_name(row): _channel(row) for row in table},
        "operations": {_name(row): _operation(row) for row in table},
        "components": {
            "schemas": schemas,
            "securitySchemes": {"password": {"type": "userPassword"}},
        },
    }


def _name(row: Topic) -> str:
    """An identifier for a row: its fixed words, and its parameters where these alone tell it apart."""
    return re.sub(r"\W+", "_", row.pattern).strip("_")


def _channel(row: Topic) -> dict[str, Any]:
    local = not row.pattern.startswith("/")
    names = [*(["root", "node"] if local else []), *row.parameters]
    return {
        "address": ("{root}/{node}/" if local else "") + row.pattern.lstrip("/"),
        "description": row.about,
        "messages": _messages(row),
        "parameters": {name: _parameter(row, name) for name in names},
        "x-kind": row.kind.value,
        "x-writers": sorted(row.writers),
        "x-readers": sorted(row.readers),
    }


def _parameter(row: Topic, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"description": _ABOUT[name]}
    if name in {"verb", "type"} and row.verbs:
        found["enum"] = list(row.verbs)
    elif name == "period":
        found["enum"] = ["total", "day", "week", "month"]
    elif name in PARAMETERS:
        found["x-pattern"] = PARAMETERS[name].pattern.replace("\\Z", "$")
    return found


def _messages(row: Topic) -> dict[str, Any]:
    found: dict[str, Any] = {
        payload.__name__: {
            "name": payload.__name__,
            "contentType": "application/json",
            "payload": {"$ref": _REFERENCE.format(name=payload.__name__)},
        }
        for payload in row_payloads(row)
    }
    if row.form is not Form.JSON:
        found["text"] = {"name": "text", "contentType": "text/plain", "payload": {"type": "string"}}
    return found


def _operation(row: Topic) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": "receive" if row.kind is Kind.COMMAND else "send",
        "channel": {"$ref": f"#/channels/{_name(row)}"},
        "summary": row.about,
        "bindings": {"mqtt": {"qos": row.qos, "retain": row.retain, "bindingVersion": _BINDING}},
    }
    if row.kind is Kind.COMMAND:
        operation["reply"] = {
            "address": {
                "description": "where replies go, by the id of the command",
                "location": "$message.payload#/id",
            },
            "channel": {"$ref": "#/channels/replies_id"},
        }
    return operation


def text() -> str:
    """docs/asyncapi.json."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
