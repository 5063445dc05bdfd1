"""Which sequences of whole models form the next batch: at most `max_sequences` of them, first-come or by feedback.

Pure planners, as in `scheduler`; a sequence has one frame waiting: its prompt, or the token that it goes on from.

**First come.** Whoever was opened first runs to its end; the others wait. Fair, and long answers hold up short ones.

**Skip-join multi-level feedback queue** (FastServe, arXiv 2305.05920). A sequence has a level; lower levels go first,
so that a newcomer with a short prompt overtakes, at any token, what has run for long. Nobody knows how long an answer
will be, but everybody how long a prompt's pass takes: a sequence *joins* at the first level whose quantum covers it,
and sinks a level with each quantum that it has used up; quanta double. What waited `PATIENCE_BATCHES` times in a row
goes first for one batch, so that nobody starves. Of a level those go first whose KV caches are on the accelerator:
others would be copied for the same progress.

Service is counted in passes: one for each generated token, and for a prompt as many as its tokens add to a pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from milliner.core import types
from milliner.engine.scheduler import Share, Waiting, oldest

# A prompt of this many tokens counts as a pass more: about what a GPU computes while it reads the weights once
# (24 ms against 210 µs a token in an A6000's class). Arbitrary within a factor of two.
PROMPT_TOKENS_PER_PASS = 128
FIRST_QUANTUM = 4.0  # passes; arbitrary: the answers that people feel as immediate end within a few quanta
# An answer that others overtake still moves every two or three seconds. Arbitrary: more patience gains nothing.
PATIENCE_BATCHES = 64


class FirstCome:
    """The policy that serves in the order of opening; see the module."""

    def __init__(self, *, max_sequences: int) -> None:
        self._max_sequences = max_sequences

    def plan(self, waiting: Sequence[Waiting], *, budget_tokens: int) -> list[Share]:
        """See `scheduler.SchedulingPolicy.plan`."""
        return _fill(self.rank(waiting), max_sequences=self._max_sequences, budget_tokens=budget_tokens)

    def rank(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """See `scheduler.SchedulingPolicy.rank`."""
        return sorted(oldest(waiting), key=lambda frame: frame.order)


class SkipJoinFeedbackQueue:
    """The policy that lets short ones overtake; see the module."""

    def __init__(self, *, max_sequences: int) -> None:
        self._max_sequences = max_sequences

    def plan(self, waiting: Sequence[Waiting], *, budget_tokens: int) -> list[Share]:
        """See `scheduler.SchedulingPolicy.plan`."""
        return _fill(self.rank(waiting), max_sequences=self._max_sequences, budget_tokens=budget_tokens)

    def rank(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """See `scheduler.SchedulingPolicy.rank`."""
        return sorted(oldest(waiting), key=_urgency)


def level(*, prompt_tokens: int, generated: int) -> int:
    """A sequence's level after `generated` tokens of its own; 0 is the first."""
    first_pass = 1.0 + prompt_tokens / PROMPT_TOKENS_PER_PASS
    found, quantum = 0, FIRST_QUANTUM
    while quantum < first_pass:  # joins here: the levels above could not even finish its prompt
        found, quantum = found + 1, 2.0 * quantum
    used = first_pass + generated
    while used > quantum:
        used -= quantum
        found, quantum = found + 1, 2.0 * quantum
    return found


def _urgency(frame: Waiting) -> tuple[int, bool, int]:
    if frame.skipped_batches >= PATIENCE_BATCHES:
        return (-1, False, frame.order)
    return (level(prompt_tokens=frame.prompt_tokens, generated=frame.generated), frame.away, frame.order)


def _fill(ordered: Sequence[Waiting], *, max_sequences: int, budget_tokens: int) -> list[Share]:
    """Generated tokens of the chosen first, then their prompts: what is left of the budget goes to the most urgent."""
    chosen = ordered[:max_sequences]
    steps = [frame for frame in chosen if frame.kind is types.FrameKind.VERIFY]
    prompts = [frame for frame in chosen if frame.kind is not types.FrameKind.VERIFY]
    shares, left_tokens = [], budget_tokens
    for frame in (*steps, *prompts):
        num_tokens = min(frame.num_tokens, left_tokens)
        if num_tokens > 0:
            shares.append(Share(frame.ticket, num_tokens))
            left_tokens -= num_tokens
    return shares
