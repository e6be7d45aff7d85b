"""The published descriptions of the bus are valid, complete and current."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from bus import asyncapi, describe
from bus.topics import TABLE, Topic

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = REPOSITORY / "tests/data/asyncapi-3.0.0.schema.json"


def test_the_document_is_valid_asyncapi() -> None:
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text("utf-8")))
    assert [error.message for error in validator.iter_errors(asyncapi.document())] == []


def test_the_schema_of_the_schema_does_refuse() -> None:
    validator = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text("utf-8")))
    broken = asyncapi.document()
    broken["operations"]["info"]["action"] = "shout"
    assert list(validator.iter_errors(broken))


def test_every_reference_leads_somewhere() -> None:
    document = asyncapi.document()

    def follow(value: object) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                target: object = document
                for step in str(value["$ref"]).removeprefix("#/").split("/"):
                    assert isinstance(target, dict)
                    assert step in target, value
                    target = target[step]
            for inner in value.values():
                follow(inner)
        elif isinstance(value, list):
            for inner in value:
                follow(inner)

    follow(document)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.pattern)
def test_every_row_is_described(row: Topic) -> None:
    addresses = [channel["address"] for channel in asyncapi.document()["channels"].values()]
    assert addresses.count("{root}/{node}/" + row.pattern) == 1
    assert f"`{row.pattern.replace('{self}', '{service}')}`" in describe.topics_page()


@pytest.mark.parametrize(
    ("path", "made", "command"),
    [
        ("docs/asyncapi.json", asyncapi.text, "python -m bus.asyncapi > docs/asyncapi.json"),
        ("docs/topics.md", describe.topics_page, "python -m bus.describe > docs/topics.md"),
    ],
)
def test_the_committed_files_are_current(path: str, made: object, command: str) -> None:
    assert callable(made)
    assert (REPOSITORY / path).read_text("utf-8") == made(), f"make it again: {command}"
