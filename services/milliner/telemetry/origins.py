"""Which tier an answer came from, in words, for strategies that hand it over in the middle. Pure.

Read by the waterfall and by `generate --explain`: without it nobody could tell why a cloud gave nothing.
"""

from __future__ import annotations

from milliner.telemetry.summary import RequestSummary

# Counted by P/D-Device alone, each under its own condition: one of them stands in every summary of an answer.
_COUNTERS = ("cloud_tokens_shown", "cloud_not_asked", "prompt_tokens_left_out")


def words(summary: RequestSummary) -> str:
    """Such as `12 tokens from the cloud, 48 from the device`; "" for a strategy that hands nothing over."""
    counters = summary.counters
    if not any(name in counters for name in _COUNTERS):
        return ""
    if counters.get("cloud_not_asked"):
        return "cloud not asked: the device alone was expected to be sooner"
    from_cloud = min(counters.get("cloud_tokens_shown", 0), summary.generated_tokens)
    parts = [f"{from_cloud} tokens from the cloud, {summary.generated_tokens - from_cloud} from the device"]
    if counters.get("fallbacks"):
        parts.append("the cloud was lost or full")
    if left_out := counters.get("prompt_tokens_left_out"):
        parts.append(f"{left_out} prompt tokens left out there")
    return ", ".join(parts)
