"""How large the next prompt chunk is. Pure arithmetic; re-planned for every chunk.

The pipeline has three stages: the device's shallow layers s(X), the upload u(X) = bytes(X) / β, and the cloud's step
g(μ + X) = a + b · (μ + X), where μ are other sessions' tokens in the same batch. The best *constant*
chunk is the one whose upload takes as long as the cloud's step, X* = (a + b·μ) / (A/β − b) (docs/algorithms.md).

`Dynamic` applies that balance to each chunk in turn: the next chunk is as large as what can be prepared and uploaded
while the cloud computes the chunk before it,

    max(s(X'), u(X')) = g(μ + X),   starting with X = min_tokens.

Where the upload is the bottleneck the recursion converges to X* (its fixed point). Where the cloud is, it keeps the
cloud busy with ever larger chunks, whose fixed costs are fewer than with any constant size. The first chunk is small in
both cases, so that the upload starts at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from milliner.core import types
from milliner.strategies import options as strategy_options

UNKNOWN_LINK_TOKENS = 128  # chunk size until the upload rate has been measured; arbitrary
# A rest up to this multiple of the chunk is sent with it: no step for a few tokens. Of 1.25 to 2 the best over the
# lengths and codecs of preset paper-wifi (`milliner bench --modelled`, 2026-11-21).
LAST_CHUNK_SLACK = 1.4


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkContext:
    """What is known when the next chunk is planned."""

    start: int  # first prompt position of the chunk
    prompt_tokens: int
    previous_tokens: int  # size of the chunk before it; 0 for the first
    load: types.LoadReport
    upload_s: Callable[[int], float | None]  # seconds that the next n positions occupy the uplink
    shallow_s: Callable[[int], float]  # estimated seconds of the shallow layers over n positions

    @property
    def remaining(self) -> int:
        return self.prompt_tokens - self.start


Seconds = Callable[[int], float]
"""Estimated seconds of a computation over n positions."""

BytesBetween = Callable[[int, int], float]
"""Payload bytes of prompt positions [start, end)."""


class ChunkPlanner(Protocol):
    """Says how many prompt tokens the next chunk takes: at least 1, at most `context.remaining`."""

    def next_tokens(self, context: ChunkContext) -> int: ...


class WholePrompt:
    """No chunking: the HAT paper's U-shape baseline."""

    def next_tokens(self, context: ChunkContext) -> int:
        return context.remaining


@dataclasses.dataclass(frozen=True, slots=True)
class FixedChunks:
    """Equal chunks, as Sarathi-Serve cuts prompts: the baseline U-Sarathi."""

    tokens: int

    def next_tokens(self, context: ChunkContext) -> int:
        return min(self.tokens, context.remaining)


@dataclasses.dataclass(frozen=True, slots=True)
class DynamicChunks:
    """See the module."""

    min_tokens: int
    max_tokens: int

    def next_tokens(self, context: ChunkContext) -> int:
        tokens = self._balanced(context)
        with_rest = min(LAST_CHUNK_SLACK * tokens, self._ceiling(context))
        return context.remaining if context.remaining <= with_rest else tokens

    def _balanced(self, context: ChunkContext) -> int:
        ceiling = self._ceiling(context)
        floor = min(self.min_tokens, ceiling)
        if context.upload_s(1) is None:
            return max(floor, min(UNKNOWN_LINK_TOKENS, ceiling))
        if context.previous_tokens == 0:
            return floor
        load = context.load
        step_s = load.delay_fixed_s + load.delay_per_token_s * (load.other_tokens + context.previous_tokens)
        return _largest(lambda tokens: _supply_s(context, tokens) <= step_s, low=floor, high=ceiling)

    def _ceiling(self, context: ChunkContext) -> int:
        ceiling = min(self.max_tokens, context.remaining)
        return min(ceiling, context.load.max_chunk_tokens) if context.load.max_chunk_tokens > 0 else ceiling


def _supply_s(context: ChunkContext, tokens: int) -> float:
    """Seconds until the cloud can have `tokens` more, in a full pipeline."""
    return max(context.shallow_s(tokens), context.upload_s(tokens) or 0.0)


def _largest(fits: Callable[[int], bool], *, low: int, high: int) -> int:
    """The largest n in [low, high] that fits, for a predicate that turns false once; `low` if none does."""
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def build_planner(options: strategy_options.ChunkingOptions) -> ChunkPlanner:
    """The planner for a chunking mode."""
    match options.mode:
        case strategy_options.ChunkingMode.NONE:
            return WholePrompt()
        case strategy_options.ChunkingMode.FIXED:
            return FixedChunks(options.fixed_tokens)
        case strategy_options.ChunkingMode.DYNAMIC:
            return DynamicChunks(min_tokens=options.min_tokens, max_tokens=options.max_tokens)
