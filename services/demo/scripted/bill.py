"""What the session has used and cost, per model: made up, but it adds up over `--resume`."""

from __future__ import annotations

from . import script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .wire import Frame

MODEL_PRICE = script.PRICES["claude-opus-5-5"]  # for models without a price of their own, as `scripted` is
NO_USAGE = {
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
    "service_tier": "standard",
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
}


class Bill:
    """`rows`: per model [input, output, cache read, cache write 5 min, cache write 1 h, 10^-12 dollars]."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}

    def book(self, model: str, usage: Frame) -> int:
        """Add one answer's usage. Returns its cost in 10^-12 dollars."""
        cost = script.cost(usage, script.PRICES.get(script.canonical_model(model), MODEL_PRICE))
        split = usage["cache_creation"]
        amounts = (
            usage["input_tokens"],
            usage["output_tokens"],
            usage["cache_read_input_tokens"],
            split["ephemeral_5m_input_tokens"],
            split["ephemeral_1h_input_tokens"],
            cost,
        )
        row = self.rows.setdefault(model, [0] * 6)
        for position, amount in enumerate(amounts):
            row[position] += amount
        return cost

    def total(self) -> int:
        """What the session has cost, in 10^-12 dollars."""
        return sum(row[5] for row in self.rows.values())

    def model_usage(self) -> Frame:
        """The rows as Claude Code reports them (`modelUsage`)."""
        return {
            model: {
                "inputTokens": row[0],
                "outputTokens": row[1],
                "cacheReadInputTokens": row[2],
                "cacheCreationInputTokens": row[3] + row[4],
                "webSearchRequests": 0,
                "costUSD": row[5] / 1e12,
                "contextWindow": 1_000_000,
                "maxOutputTokens": 128_000,
                "thinkingTokens": 0,
                "cacheCreationEphemeral5mInputTokens": row[3],
                "cacheCreationEphemeral1hInputTokens": row[4],
                "canonicalModel": script.canonical_model(model),
                "provider": "scripted",
                "costBasis": "list",
            }
            for model, row in self.rows.items()
        }

    def restore(self, model_usage: Frame) -> None:
        """Go on from what `model_usage` said when the session ended."""
        self.rows = {
            model: [
                row["inputTokens"],
                row["outputTokens"],
                row["cacheReadInputTokens"],
                row["cacheCreationEphemeral5mInputTokens"],
                row["cacheCreationEphemeral1hInputTokens"],
                round(row["costUSD"] * 1e12),
            ]
            for model, row in model_usage.items()
        }

    def text(self) -> str:
        """The bill for people, as `/cost` shows it."""
        lines = [f"Estimated cost:        ${self.total() / 1e12:.4f}", "Usage by model:"]
        lines += [
            f"{model:>21}:  {row[0]} input, {row[1]} output, {row[2]} cache read, "
            f"{row[3] + row[4]} cache write "
            f"(${row[5] / 1e12:.4f})"
            for model, row in self.rows.items()
        ]
        return "\n".join(lines)


def add(left: Frame, right: Frame) -> Frame:
    """Two usages added, number by number."""
    if not left:
        return right
    total: Frame = {}
    for key, value in right.items():
        if isinstance(value, dict):
            total[key] = add(left[key], value)
        else:
            total[key] = left[key] + value if isinstance(value, int) else value
    return total
