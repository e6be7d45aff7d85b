"""Tables: whatever an agent says, the columns that name it and its danger stay."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.cli import view


@pytest.mark.parametrize("width", [80, 200])
def test_a_long_text_does_not_push_out_what_matters(width: int) -> None:
    table = view.table("ID", "SESSION", "LEVEL", "WHAT", wide="WHAT")
    table.add_row("a123456789", "fix-tests", "critical", "x" * 1000)
    console = Console(file=(out := io.StringIO()), width=width)
    console.print(table)
    for word in ("a123456789", "fix-tests", "critical"):
        assert word in out.getvalue()


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/srv/app", "/srv/app"),
        ("/home/ada/src/project/services/ingest", "…/project/services/ingest"),
        ("/home/ada/" + "x" * 40, "…" + "x" * 27),
    ],
)
def test_a_directory_is_known_by_its_last_parts(path: str, shown: str) -> None:
    text = view._short_path(path)
    assert text == shown
    assert len(text) <= view.PATH_WIDTH
