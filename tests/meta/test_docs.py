"""What the documents and our own messages tell people to type, read and set is there."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus import topics as t
from services._process.config_keys import SECTIONS, Device
from services.cli import parser
from services.cli.line import UsageError
from tests.meta.sources import ROOT, parsed, sources, texts

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "deploy/**/*.md", "grafana/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
FOLDERS = ("bus", "services", "tests", "docs", "deploy", "grafana", "benchmarks", "scripts")
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
TOPIC = re.compile(
    r"(?:pointsman/[^/]+/)?"
    r"((?:sessions|approvals|ledger|devices|watchdog|policy|replies|facts|acks|internal)/[\w<>+#*/-]*[\w>+#*])"
)
# Words that stand for something else, and what a reader would type there.
STAND_INS = {
    "VERB": "ls", "USD": "1", "N": "1", "L": "low", "N:HASH": f"1:{'0' * 64}", "JSON": "{}",
}  # fmt: skip
PARSER = parser.build()


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def spans(text: str) -> list[str]:
    """What stands in `code` within the text, outside of blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(found.split()) for found in SPAN.findall(prose)]


def in_messages() -> list[str]:
    """What stands in `code` in the texts of our programs, with ``x`` for what is filled in."""
    paths = sources("bus", "services")
    return [span for path in paths for _, text in texts(parsed(path)) for span in SPAN.findall(text)]


# ── Links and files ──────────────────────────────────────────────────────────────────────────────────────


def anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        place, _, anchor = link.partition("#")
        target = path.parent / place if place else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text("utf-8")), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_files_that_are_named_are_there(path: Path) -> None:
    """From the root, from where the document stands, or a test without ``tests/`` and ``.py``."""
    for span in spans(path.read_text("utf-8")):
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", span) is None:
            continue
        if span.split("/")[0] in FOLDERS or span.split("/")[-1].startswith("test_"):
            places = (ROOT / span, path.parent / span, ROOT / "tests" / f"{span}.py")
            assert any(place.exists() for place in places), span


# ── Commands ─────────────────────────────────────────────────────────────────────────────────────────────


def typed(text: str) -> Iterator[str]:
    """The lines that begin with our command, without prompt and environment."""
    for line in text.splitlines():
        found = re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ )*(pointsman .*)", line)
        if found:
            yield found[1]


def readings(command: str) -> Iterator[list[str]]:
    """Everything that ``pointsman end NAME|--all [--json]`` stands for, as argument lists."""
    try:
        words = shlex.split(re.sub(r"[\[\]…]|\.\.\.", " ", command), comments=True)[1:]
    except ValueError:  # a quotation that goes on in the next line
        return
    end = next((n for n, word in enumerate(words) if word in {">", "|", "&&"}), len(words))
    for choice in itertools.product(*(re.split(r"(?<=\w)\|(?=[\w-])", word) for word in words[:end])):
        yield [STAND_INS.get(word, word) for word in choice]


def mistake(command: str) -> str | None:
    """Why the command line would refuse it; None where it is right, or only begun."""
    for argv in readings(command):
        try:
            parser.parse(PARSER, argv)
        except UsageError as error:
            if "arguments are required" not in str(error):
                return f"{command}: {error}"
        except SystemExit:  # --help, --version
            continue
    return None


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_commands_in_documents_are_real(path: Path) -> None:
    text = path.read_text("utf-8")
    commands = [*typed(text), *(span for span in spans(text) if span.startswith("pointsman "))]
    assert [found for command in commands if (found := mistake(command))] == []


def test_commands_in_messages_are_real() -> None:
    commands = [span for span in in_messages() if span.startswith("pointsman ") and "--x" not in span]
    assert len(commands) > 30
    wrong = [found for command in commands if (found := mistake(command))]
    assert [found for found in wrong if "'x' is not" not in found] == []  # a number is filled in there


def test_the_check_of_commands_can_fail() -> None:
    for wrong in ("pointsman aprove ID", "pointsman end NAME|--every", "pointsman cost --by week"):
        assert mistake(wrong)
    for right in ("pointsman end NAME|--all", "pointsman user add NAME --role viewer|approver"):
        assert mistake(right) is None


def test_make_has_every_target_that_is_named() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [path.read_text("utf-8") for path in DOCUMENTS]
    blocks = [line.strip() for text in documents for line in text.splitlines() if line.startswith("    ")]
    said = [*in_messages(), *blocks, *(span for text in documents for span in spans(text))]
    named = {found[1] for text in said if (found := re.match(r"make ([a-z-]+)", text))}
    assert named >= {"run", "demo", "test"}
    assert named <= targets | {"deploy"}  # an agent's, in an example


# ── Topics ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_topics_in_documents_are_in_the_table(path: Path) -> None:
    """A row's pattern, a topic of it, or a filter of MQTT that one fits."""
    for span in spans(path.read_text("utf-8")):
        if found := TOPIC.fullmatch(span):
            topic = re.sub(r"<\w+>|[A-Z]{2,}|[*+#]", "x", found[1])
            assert any(row.regex.match(topic) for row in t.TABLE), span


# ── Configuration ────────────────────────────────────────────────────────────────────────────────────────


def documented() -> dict[str, str]:
    """Key → default, as docs/configuration.md has them."""
    found: dict[str, str] = {}
    for line in (ROOT / "docs/configuration.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        keys = re.findall(r"`([a-z_]+(?:\.(?:<name>|[a-z_]+))+)`", cells[0]) if len(cells) == 3 else []
        values = cells[1].split(", ") if len(keys) > 1 else cells[1:2]
        for n, key in enumerate(keys):
            found[key] = values[min(n, len(values) - 1)].replace("`", "")
    return found


def defaults() -> dict[str, object]:
    """`msgspec.NODEFAULT`: it depends on the machine."""
    sections: dict[str, type[msgspec.Struct]] = {**SECTIONS, "devices.<name>": Device}
    return {
        f"{section}.{field.name}": field.default
        for section, kind in sections.items()
        for field in msgspec.structs.fields(kind)
    }


def test_every_key_is_documented_and_no_other() -> None:
    assert set(documented()) == set(defaults())


@pytest.mark.parametrize("key", sorted(defaults()))
def test_documented_defaults_are_those_of_the_code(key: str) -> None:
    said, default = documented()[key], defaults()[key]
    if isinstance(default, bool):
        assert said == ("true" if default else "false")
    elif isinstance(default, int | float):
        assert float(said) == default
    elif isinstance(default, tuple):
        assert (json.loads(said) if said != "none" else []) == list(default)
    elif default is None:
        assert said in ("none", "as timeout_s")
    else:
        assert default in (said, msgspec.NODEFAULT)
