"""The command line of `claude`, as far as the scripted agent needs it."""

from __future__ import annotations

FLAGS_WITH_VALUE = frozenset(
    (
        "--input-format",
        "--output-format",
        "--permission-prompt-tool",
        "--resume",
        "--session-id",
        "--model",
        "--permission-mode",
        "--sdk-url",
        "--settings",
        "--add-dir",
        "--append-system-prompt",
        "--allowedTools",
        "--disallowedTools",
        "--mcp-config",
        "--setting-sources",
        "--max-turns",
        "--fallback-model",
    )
)
SHORT = {"-r": "--resume", "-p": "--print", "-v": "--version"}


def options_of(arguments: list[str]) -> dict[str, str]:
    """The command line as flag → value; flags without a value have an empty one, unknown ones are taken."""
    options = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        options[name] = value if equals else next(rest, "") if name in FLAGS_WITH_VALUE else ""
    return {SHORT.get(name, name): value for name, value in options.items()}
