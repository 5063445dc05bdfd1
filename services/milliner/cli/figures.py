"""Figures of one answer in a line of text, for `generate --explain` and the demo."""

from __future__ import annotations

from milliner.telemetry import origins
from milliner.telemetry.summary import RequestSummary


def line(summary: RequestSummary) -> str:
    """TTFT, time per token, tokens of each tier, acceptance, bytes per token; what does not exist is left out."""
    parts = [f"{summary.prompt_tokens} prompt + {summary.generated_tokens} tokens"]
    if summary.ttft_s is not None:
        parts.append(f"TTFT {summary.ttft_s * 1e3:.0f} ms")
    if summary.tpot_s is not None:
        parts.append(f"{summary.tpot_s * 1e3:.1f} ms per token")
    if handed_over := origins.words(summary):
        parts.append(handed_over)
    if summary.acceptance_length is not None:
        parts.append(f"acceptance length {summary.acceptance_length:.2f}")
    share = hidden_draft_share(summary)
    if share is not None:
        parts.append(f"{share:.0%} of drafting rounds hidden")
    tokens = max(1, summary.generated_tokens)
    for counter, word in (("bytes_up", "up"), ("bytes_down", "down")):
        if counter in summary.counters:
            parts.append(f"{summary.counters[counter] / tokens / 1e3:.1f} kB per token {word}")
    return " · ".join(parts)


def hidden_draft_share(summary: RequestSummary) -> float | None:
    """Share of rounds with drafts whose drafting ran while a verification was outstanding; None without drafts."""
    drafted = summary.counters.get("num_drafted_rounds", 0)
    return summary.counters.get("num_hidden_rounds", 0) / drafted if drafted else None
