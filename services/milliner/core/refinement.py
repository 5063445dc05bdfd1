"""Which spans of a prompt to keep, given how much each position matters. Pure: the scores come as plain numbers.

The cloud scores (`engine.refiner`) and the device reads the kept positions as a shorter prompt. Kept in any case are
the spans that the device protects and the last position, behind which the answer begins; then, while there is room,
the first positions (attention sinks: models rest their attention there, arXiv 2309.17453) and the last ones (the
question, and the text that the answer continues). What remains is cut into units of neighbours, of which the ones with
the highest scores are taken: whole units, because tokens without their neighbours mean little. A unit's score is the
mean of its positions' and, the less the further, of those before it: an answer goes on reading where the last positions
have begun to. Whole units are weighed, not positions, so that none ranks behind the one that follows it only for that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

Spans = tuple[tuple[int, int], ...]

SINK_TOKENS = 4  # arXiv 2309.17453
TAIL_SHARE = 0.5  # of what is kept
UNIT_TOKENS = 16
CARRY_TOKENS = 64  # as `UNIT_TOKENS` from docs/benchmarks.md, bench refine
MAX_UNITS = 8192  # arbitrary: longer prompts are cut into larger units, so that spans stay few


@dataclasses.dataclass(frozen=True, slots=True)
class Refinement:
    """What a device wants of its prompt: `keep_share` of it at most, above 0, with all of `keep_spans` ([start, end),
    sorted, disjoint, inside the prompt)."""

    keep_share: float
    keep_spans: Spans = ()

    def most_tokens(self, num_tokens: int) -> int:
        """Positions that are kept of a prompt: what is protected may be more than the share."""
        protected = mark((*self.keep_spans, (num_tokens - 1, num_tokens)), num_tokens=num_tokens)
        return max(math.ceil(self.keep_share * num_tokens), sum(protected))


def select(scores: Sequence[float], refinement: Refinement) -> Spans:
    """The spans to keep of a prompt with these scores: exactly `refinement.most_tokens` positions."""
    num_tokens = len(scores)
    kept = mark((*refinement.keep_spans, (num_tokens - 1, num_tokens)), num_tokens=num_tokens)
    room = refinement.most_tokens(num_tokens) - sum(kept)
    room -= _take(kept, range(min(SINK_TOKENS, num_tokens)), room)
    room -= _take(kept, reversed(range(num_tokens)), int(room * TAIL_SHARE))
    for _, start, end in sorted(weighed(scores, _units(kept)), reverse=True):
        if end - start <= room:
            kept[start:end] = b"\1" * (end - start)
            room -= end - start
    _take(kept, reversed(range(num_tokens)), room)
    return spans(kept)


def mark(wanted: Iterable[tuple[int, int]], *, num_tokens: int) -> bytearray:
    """One byte for each position: 1 inside the spans."""
    marked = bytearray(num_tokens)
    for start, end in wanted:
        marked[start:end] = b"\1" * (end - start)
    return marked


def spans(marked: Sequence[int]) -> Spans:
    """The [start, end) of the positions that are marked."""
    found, at = [], 0
    for value, group in itertools.groupby(marked):
        end = at + len(list(group))
        if value:
            found.append((at, end))
        at = end
    return tuple(found)


def weighed(scores: Sequence[float], units: Iterable[tuple[int, int]]) -> Iterable[tuple[float, int, int]]:
    """Each unit with the mean of its scores and of those up to `CARRY_TOKENS` before it, at weights that fall to 0.

    With prefix sums of scores and of score times position, so that long prompts cost no more per unit.
    """
    sums = list(itertools.accumulate(scores, initial=0.0))
    moments = list(itertools.accumulate((at * score for at, score in enumerate(scores)), initial=0.0))
    for start, end in units:
        first = max(0, start - CARRY_TOKENS)
        # The position at `at` < start weighs 1 - (start - at) / CARRY_TOKENS.
        slope = moments[start] - moments[first] - start * (sums[start] - sums[first])
        before = sums[start] - sums[first] + slope / CARRY_TOKENS
        distance = start - first
        weight = distance - distance * (distance + 1) / (2 * CARRY_TOKENS)
        yield (sums[end] - sums[start] + before) / (end - start + weight), start, end


def _take(kept: bytearray, positions: Iterable[int], room: int) -> int:
    """Keeps the first of `positions` that are not kept yet, `room` at most; returns how many."""
    taken = list(itertools.islice((position for position in positions if not kept[position]), room))
    for position in taken:
        kept[position] = 1
    return len(taken)


def _units(kept: bytearray) -> Iterable[tuple[int, int]]:
    """Cuts what is not kept: a unit is of `UNIT_TOKENS` to twice as many, or a whole gap that is shorter."""
    size = max(UNIT_TOKENS, len(kept) // MAX_UNITS)
    for start, end in spans([not value for value in kept]):
        count = max(1, (end - start) // size)
        edges = [start + (end - start) * number // count for number in range(count + 1)]
        yield from itertools.pairwise(edges)
