"""Draws the README's picture from a real run: ``python -m services.demo.picture docs/picture.svg``."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from services.demo.stack import DemoStack

_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # fonts from elsewhere: the page's own will do
WIDTH = 110  # columns; what fits GitHub's page without shrinking
VERBS = (("ls",), ("approvals",), ("approve", "--oldest"), ("ls",), ("cost",), ("health",))


def main() -> int:
    """Start the demo, type what a newcomer would type, and save what the terminal shows."""
    console = Console(record=True, width=WIDTH, force_terminal=True, file=io.StringIO())
    with DemoStack() as stack:
        stack.open_sessions()
        for verb in VERBS:
            console.print(Text(f"$ pointsman {' '.join(verb)}", style="bold green"))
            shown = stack.pointsman(*verb, environment={"COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}).stdout
            console.print(Text.from_ansi(shown.rstrip()), no_wrap=True, overflow="ellipsis", crop=True)
            console.print()
            if verb[0] == "approve":
                stack.wait_for_answer()
    svg = console.export_svg(title="pointsman (the model is scripted)")
    Path(sys.argv[1]).write_text(_FONT_FACE.sub("", svg).replace("Fira Code", "ui-monospace"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
