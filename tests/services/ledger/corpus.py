"""Transcripts as Claude Code writes them, and what they cost, reckoned by hand.

Two projects. In the first a conversation with a subagent, resumed into a second file that repeats its lines;
in the second a cache-heavy one, with two models. Lines of one answer repeat its usage, the first of them from
before it was whole; a subagent's file repeats a line of its parent's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.ledger.model import Use

OPUS, HAIKU, SONNET = "claude-opus-4-6", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"

# name → (model, day, input, output, cache read, 5-minute writes, 1-hour writes)
CALLS: dict[str, tuple[str, str, int, int, int, int, int]] = {
    "a1": (OPUS, "2026-11-02", 12, 340, 18_000, 0, 9_500),
    "a2": (OPUS, "2026-11-02", 4, 1_210, 27_500, 0, 1_300),
    "s1": (HAIKU, "2026-11-02", 900, 75, 0, 4_000, 0),
    "s2": (HAIKU, "2026-11-02", 15, 260, 4_000, 700, 0),
    "a3": (OPUS, "2026-11-03", 7, 95, 30_100, 0, 2_200),
    "b1": (SONNET, "2026-11-04", 3, 800, 120_000, 2_500, 41_000),
    "b2": (SONNET, "2026-11-04", 3, 650, 163_500, 0, 900),
    "b3": (HAIKU, "2026-11-05", 2_000, 40, 0, 0, 0),
}

# Dollars a million tokens: input, output, cache read, 5-minute write, 1-hour write. From Anthropic's list.
PRICES: dict[str, tuple[str, ...]] = {
    OPUS: ("5", "25", "0.5", "6.25", "10"),
    HAIKU: ("1", "5", "0.1", "1.25", "2"),
    SONNET: ("3", "15", "0.3", "3.75", "6"),
}

TOTAL_USD = 0.587698
"""Added up with pencil and paper, in thousandths of a dollar:

a1 112.560 + a2 57.020 + a3 39.460 = 209.040 of opus; s1 6.275 + s2 2.590 + b3 2.200 = 11.065 of haiku;
b1 303.384 + b2 64.209 = 367.593 of sonnet.
"""

BROKEN = 4  # half a line, no JSON, a time that is none, and a last line that is half written


def by_hand() -> dict[str, int]:
    """Cost of each call in 10⁻¹² dollars: tokens times dollars a million tokens, in integers."""
    return {
        name: sum(
            count * round(float(price) * 10**6) for count, price in zip(counts, PRICES[model], strict=True)
        )
        for name, (model, _, *counts) in CALLS.items()
    }


def _line(name: str, session: str, cwd: str, *, whole: bool = True, **more: Any) -> str:
    model, day, input_, output, read, w5, w1 = CALLS[name]
    use = Use(0, input_, output if whole else 1, read, w5 + w1, w5, w1)
    return line_of(model, use, session, cwd=cwd, name=name, day=day, **more)


def line_of(
    model: str,
    use: Use,
    session: str,
    *,
    cwd: str = "/w",
    name: str = "x",
    day: str = "2026-11-06",
    **more: Any,
) -> str:
    """The line of a call."""
    usage = {
        "input_tokens": use.input, "output_tokens": use.output, "cache_read_input_tokens": use.cache_read,
        "cache_creation_input_tokens": use.cache_write,
        "cache_creation": {
            "ephemeral_5m_input_tokens": use.cache_write_5m,
            "ephemeral_1h_input_tokens": use.cache_write_1h,
        },
        "service_tier": "standard",
    }  # fmt: skip
    message = {
        "id": f"msg_{name}", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": "…"}], "stop_reason": None, "usage": usage,
    }  # fmt: skip
    line = {
        "parentUuid": None, "isSidechain": name.startswith("s"), "userType": "external", "cwd": cwd,
        "sessionId": session, "version": "2.1.329", "type": "assistant", "message": message,
        "requestId": f"req_{name}", "uuid": f"{session}-{name}", "timestamp": f"{day}T12:00:00.000Z", **more,
    }  # fmt: skip
    return json.dumps(line, separators=(",", ":"))


def _said(text: str, session: str, cwd: str) -> str:
    line = {"type": "user", "message": {"role": "user", "content": text}, "sessionId": session, "cwd": cwd,
            "timestamp": "2026-11-02T11:59:00.000Z", "uuid": f"{session}-{text}"}  # fmt: skip
    return json.dumps(line, separators=(",", ":"))


def write(root: Path) -> int:
    """Write the files below ``root`` (a ``projects`` directory); returns the number of their lines."""
    app, tool = "/work/app", "/work/tool"
    first, second, third = (f"0000000{n}-0000-4000-8000-000000000000" for n in (1, 2, 3))
    main = [
        _said("hello", first, app), _line("a1", first, app, whole=False), _line("a1", first, app),
        _line("a1", first, app), _line("a2", first, app), _line("a2", first, app),
    ]  # fmt: skip
    files = {
        f"-work-app/{first}.jsonl": main,
        f"-work-app/{first}/subagents/agent-1.jsonl": [
            _line("a2", first, app), _line("s1", first, app), _line("s2", first, app, whole=False),
            _line("s2", first, app),
        ],
        # Resumed under another id: everything again, and then what is new.
        f"-work-app/{second}.jsonl": [line.replace(first, second) for line in main] + [
            _line("a3", second, app), _line("a3", second, app)
        ],
        f"-work-tool/{third}.jsonl": [
            _line("b1", third, tool), _line("b1", third, tool)[:80], "no JSON at all",
            _line("b2", third, tool), _line("b3", third, tool, timestamp="noon"), _line("b3", third, tool),
            '{"type":"summary","summary":"usage"}',
        ],
    }  # fmt: skip
    count = 0
    for name, lines in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}\n" for line in lines)
        if "tool" in name:
            text += _line("b2", third, tool)[:120]  # it was being written
            count += 1
        path.write_text(text)
        count += len(lines)
    return count
