"""The mini script language of the scripted model: the prompt says what the model does.

A prompt is a row of steps separated by ` ;; ` (or by a newline before a keyword, which is how prompts that
were sent during a turn arrive merged):

    SAY text                  say the text
    THINK text                think the text (a thinking block)
    STREAM n ms               say n words, one every ms milliseconds
    WAIT ms                   pause
    BASH command              ask for the tool Bash
    READ path                 ask for the tool Read
    WRITE path content        ask for the tool Write; a path with spaces goes in double quotes
    ASK question|opt1|opt2    ask the user (AskUserQuestion)
    PLAN text                 present a plan (ExitPlanMode)
    TOOL name {json}          ask for any other tool
    RECALL                    repeat the texts of all earlier prompts of the conversation
    ERROR status              the API fails with that HTTP status, e.g. 529
    LIMIT seconds             the account's usage limit is reached, once; it is reset after that time

Several tools in one answer are joined with ` & `: `READ a & READ b`. Steps up to a tool make one answer of
the model; when the tools' results are there, the next answer goes on with the next step. A script that ends
with a tool is followed by `RESULT: <what the tool said>`. A prompt without a keyword is answered with
`HELP`.

`reply(messages)` works from the conversation alone, so a resumed conversation goes on where it stood. The
same module serves the scripted agent and the scripted Messages API of the tests. It imports nothing but
`json` and `re`.
"""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
    """A message as in a Messages API request: `{"role": "user"|"assistant", "content": str | [block...]}`."""

    Action = tuple[str, Any]
    """One thing the model does: `("text", str)`, `("thinking", str)`, `("stream", (n, ms))`, `("wait", ms)`,
    `("tool", (name, input))`, `("error", status)` or `("limit", seconds)`."""

TOOL_WORDS = ("BASH", "READ", "WRITE", "ASK", "PLAN", "TOOL")
WORDS = (*TOOL_WORDS, "SAY", "THINK", "STREAM", "WAIT", "RECALL", "ERROR", "LIMIT")

NUMBERED = ("STREAM", "WAIT", "ERROR", "LIMIT")

_STEP = re.compile(rf"({'|'.join(WORDS)})\b[ \t]*(.*)", re.DOTALL)
_BETWEEN_STEPS = re.compile(rf" ;; |\n(?=(?:{'|'.join(WORDS)})\b)")
_BETWEEN_TOOLS = re.compile(rf" & (?=(?:{'|'.join(TOOL_WORDS)})\b)")
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_INTERRUPTED = "[Request interrupted by user"

MID_TURN = "The user sent a new message while you were working:\n"
"""How Claude Code hands a message on that arrived during a turn: 2.1.329 in a message of the role `system`,
older ones in a reminder at the end of the tool's result."""
_MID_TURN_END = r"(?=\n\n(?:This is how|IMPORTANT:)|</system-reminder>|\Z)"
_MID_TURN = re.compile(re.escape(MID_TURN) + "(.*?)" + _MID_TURN_END, re.DOTALL)

HELP = (
    "I am a scripted model: there is no account and no thinking behind me, but tools that you approve really "
    "run. Tell me what to do, for example: `SAY hello`, `BASH date`, `WRITE notes.txt some text`, "
    "`READ notes.txt`, "
    "`ASK Which colour?|red|blue`, `PLAN first this, then that`, `STREAM 40 50`, `RECALL`, "
    "or several steps: `SAY working ;; BASH ls -l ;; SAY done`."
)

PRICES: dict[str, tuple[int, int, int, int, int]] = {
    # (input, output, cache read, cache write 5 min, cache write 1 h), each in 10^-12 dollars a token:
    # $4 a million tokens are 4_000_000. Source: PyPI genai-prices 0.2.3, provider anthropic, prices below
    # 200 000 tokens.
    "claude-opus-5-5": (4_000_000, 20_000_000, 200_000, 5_000_000, 8_000_000),
    "claude-opus-5": (5_000_000, 25_000_000, 500_000, 6_250_000, 10_000_000),
    "claude-opus-4-8": (5_000_000, 25_000_000, 500_000, 6_250_000, 10_000_000),
    "claude-opus-4-7": (5_000_000, 25_000_000, 500_000, 6_250_000, 10_000_000),
    "claude-opus-4-6": (5_000_000, 25_000_000, 500_000, 6_250_000, 10_000_000),
    "claude-sonnet-5-5": (2_000_000, 10_000_000, 100_000, 2_500_000, 4_000_000),
    "claude-sonnet-5": (2_000_000, 10_000_000, 200_000, 2_500_000, 4_000_000),
    "claude-sonnet-4-6": (3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000),
    "claude-sonnet-4-5": (3_000_000, 15_000_000, 300_000, 3_750_000, 6_000_000),
    "claude-haiku-5-5": (100_000, 500_000, 10_000, 125_000, 200_000),
    "claude-haiku-4-5": (1_000_000, 5_000_000, 100_000, 1_250_000, 2_000_000),
}


def canonical_model(model: str) -> str:
    """The model's name without its date and context suffix: `claude-haiku-4-5-20251001` is
    `claude-haiku-4-5`.
    """
    return re.sub(r"(-20\d{6})?(\[1m\])?$", "", model)


def cost(usage: dict[str, Any], price: tuple[int, int, int, int, int]) -> int:
    """What `usage` (the shape of `usage_of`) costs at `price`, in 10^-12 dollars."""
    split = usage["cache_creation"]
    return (
        int(usage["input_tokens"]) * price[0]
        + int(usage["output_tokens"]) * price[1]
        + int(usage["cache_read_input_tokens"]) * price[2]
        + int(split["ephemeral_5m_input_tokens"]) * price[3]
        + int(split["ephemeral_1h_input_tokens"]) * price[4]
    )


def usage_of(messages: list[Message], fixed_tokens: int, output_tokens: int) -> dict[str, Any]:
    """A usage as the API reports it, plausible for the conversation, and the same for the same conversation.

    What was there at the last answer is read from the cache, what is new is written to it (three quarters
    for an hour, the rest for five minutes). `fixed_tokens` stands for the system prompt and the tools.
    """
    old = new = 0
    for message in messages:
        tokens = len(json.dumps(message["content"])) // 4 + 4
        if message["role"] == "assistant":
            old, new = old + new, tokens
        else:
            new += tokens
    if old or any(message["role"] == "assistant" for message in messages):
        old += fixed_tokens
    else:
        new += fixed_tokens
    hour = new * 3 // 4
    return {
        "input_tokens": 3 + len(messages) % 7,
        "cache_creation_input_tokens": new,
        "cache_read_input_tokens": old,
        "cache_creation": {"ephemeral_5m_input_tokens": new - hour, "ephemeral_1h_input_tokens": hour},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def output_tokens_of(actions: list[Action]) -> int:
    """A plausible count of the tokens of an answer; never 0."""
    total = 1
    for kind, value in actions:
        if kind in ("text", "thinking"):
            total += len(value) // 4 + 1
        elif kind == "stream":
            total += int(value[0])
        elif kind == "tool":
            total += 20 + len(json.dumps(value[1])) // 4
    return total


def is_script(text: str) -> bool:
    """Whether the prompt begins with a keyword."""
    return _STEP.match(text.strip()) is not None


def answers(text: str) -> list[list[Action]]:
    """The answers that a script makes, each ending with its tools; the last may be without. Empty for plain
    text.

    A step that cannot be read (`STREAM` without numbers, `TOOL` without JSON) becomes a text that says so.
    """
    if not is_script(text):
        return []
    result: list[list[Action]] = [[]]
    for step in _BETWEEN_STEPS.split(text.strip()):
        parts = _BETWEEN_TOOLS.split(step.strip())
        actions = [_action(part) for part in parts]
        result[-1] += actions
        if any(kind == "tool" for kind, _ in actions):
            result.append([])
    return result


def reply(messages: list[Message]) -> list[Action]:
    """What the model does next in this conversation. Never empty.

    The last prompt with a keyword rules. A prompt that arrives during a turn adds its steps to the end of
    the script.
    """
    current: list[list[Action]] = []
    results = 0
    last_result = ""
    earlier: list[str] = []
    plain = False
    for message in messages:
        for kind, text in _parts(message):
            if kind == "result":
                results += 1
                last_result = text
            elif text.startswith(_INTERRUPTED):
                current, results, plain = [], 0, False
            elif kind == "mid-turn":
                more = answers(text)
                current = [*current[:-1], [*(current or [[]])[-1], *(more or [[]])[0]], *more[1:]]
                earlier.append(text)
            elif is_script(text):
                current, results, plain = answers(text), 0, False
                earlier.append(text)
            else:
                current, results, plain = [], 0, True
                earlier.append(text)
    if plain or not current:
        return [("text", HELP)]
    position = _position(current, results)
    actions = current[position] if position < len(current) else []
    if not actions:
        return [("text", f"RESULT: {last_result[:2000]}")]
    return [
        ("text", " | ".join(earlier[:-1]) or "nothing before this") if kind == "recall" else (kind, value)
        for kind, value in actions
    ]


def prompts(messages: list[Message]) -> list[str]:
    """The texts of the user's prompts in the conversation, in order, without tool results and reminders."""
    return [
        text
        for message in messages
        for kind, text in _parts(message)
        if kind != "result" and not text.startswith(_INTERRUPTED)
    ]


def _position(current: list[list[Action]], results: int) -> int:
    """How many of the answers are done, when the script's tools have had `results` results."""
    for position, actions in enumerate(current):
        tools = sum(kind == "tool" for kind, _ in actions)
        if not tools or results < tools:
            return position
        results -= tools
    return len(current)


def _parts(message: Message) -> list[tuple[str, str]]:
    """What is in a message for the script: `("prompt"|"mid-turn"|"result", text)`, without what the CLI
    puts in."""
    role, content = message["role"], message["content"]
    if role not in ("user", "system"):
        return []
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    parts = []
    for block in content:
        text = str(block.get("text", ""))
        if block.get("type") == "tool_result":
            text = _flat(block.get("content"))
            parts.append(("result", _REMINDER.sub("", text).strip()))
            parts += [("mid-turn", found.strip()) for found in _MID_TURN.findall(text)]
        elif block.get("type") == "text" and MID_TURN in text:
            parts += [("mid-turn", found.strip()) for found in _MID_TURN.findall(text)]
        elif block.get("type") == "text" and role == "user":
            text = _REMINDER.sub("", text).strip()
            if text and not text.startswith("<"):
                parts.append(("prompt", text))
    return parts


def _flat(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(block.get("text", "")) for block in content if isinstance(block, dict))
    return str(content or "")


def _action(step: str) -> Action:
    found = _STEP.match(step)
    if found is None:
        return ("text", step)
    word, rest = found.group(1), found.group(2).strip()
    if word in ("SAY", "THINK"):
        return ("text" if word == "SAY" else "thinking", rest or "…")
    if word == "RECALL":
        return ("recall", None)
    try:
        return _numbers(word, rest) if word in NUMBERED else ("tool", _tool(word, rest))
    except (ValueError, IndexError):
        return ("text", f"I cannot read the step `{step}`.")


def _numbers(word: str, rest: str) -> Action:
    numbers = [int(part) for part in rest.split()]
    if word == "STREAM":
        return ("stream", (max(numbers[0], 1), max(numbers[1], 0)))
    return (word.lower(), max(numbers[0], 0))


def _tool(word: str, rest: str) -> tuple[str, dict[str, Any]]:
    """The tool's name and input. Raises `ValueError` when the step's argument does not fit."""
    if not rest:
        raise ValueError(word)
    if word == "BASH":
        return ("Bash", {"command": rest, "description": "Run a scripted command"})
    if word == "READ":
        return ("Read", {"file_path": rest.strip('"')})
    if word == "WRITE":
        found = re.match(r'"([^"]+)"\s*(.*)|(\S+)\s*(.*)', rest, re.DOTALL)
        path, content = (
            (found.group(1) or found.group(3), found.group(2) or found.group(4)) if found else (rest, "")
        )
        return ("Write", {"file_path": path, "content": content or ""})
    if word == "ASK":
        question, *options = [part.strip() for part in rest.split("|")]
        options = options if len(options) > 1 else [*(options or ["Yes"]), "No"]
        labels = [{"label": option, "description": option} for option in options]
        asked = {"question": question, "header": question[:12], "options": labels, "multiSelect": False}
        return ("AskUserQuestion", {"questions": [asked]})
    if word == "PLAN":
        return ("ExitPlanMode", {"plan": rest})
    name, _, arguments = rest.partition(" ")
    value = json.loads(arguments or "{}")
    if not isinstance(value, dict):
        raise ValueError(arguments)  # noqa: TRY004 - as for JSON that cannot be read
    return (name, value)
