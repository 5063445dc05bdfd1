"""Ways to keep a share of a prompt: the refiner's own and those that it has to beat. Pure, torch-free.

All keep the same number of positions and the last one. Called by `bench.refine`.
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Sequence

from milliner.core import refinement


class Selection(enum.StrEnum):
    """Who chooses."""

    ATTENTION = "attention"  # the refiner
    RANDOM = "random"  # spans as long as the refiner's units, anywhere
    RANDOM_MIDDLE = "random middle"  # what the refiner keeps in any case, and spans anywhere between
    HEAD_TAIL = "head and tail"  # half from either end
    TAIL = "tail"
    HEAD = "head"


DRAWN = frozenset({Selection.RANDOM, Selection.RANDOM_MIDDLE})


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """One choice."""

    selection: Selection
    spans: refinement.Spans

    def of(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens that are kept, one behind the other."""
        return tuple(token for start, end in self.spans for token in token_ids[start:end])


def choose(scores: Sequence[float], *, keep_share: float, draws: int, seed: str) -> list[Kept]:
    """All selections of a prompt with these scores; `draws` of each that is drawn at random."""
    wanted = refinement.Refinement(keep_share)
    length, most = len(scores), wanted.most_tokens(len(scores))
    head = (most - 1) // 2
    kept = [
        Kept(Selection.ATTENTION, refinement.select(scores, wanted)),
        Kept(
            Selection.HEAD_TAIL, ((0, head), (length - (most - head), length)) if head else ((length - most, length),)
        ),
        Kept(Selection.TAIL, ((length - most, length),)),
        Kept(Selection.HEAD, ((0, most - 1), (length - 1, length)) if most > 1 else ((length - 1, length),)),
    ]
    for number in range(draws):
        draw = random.Random(f"{seed} {number}")
        noise = [draw.random() for _ in scores]
        kept.append(Kept(Selection.RANDOM_MIDDLE, refinement.select(noise, wanted)))
        kept.append(Kept(Selection.RANDOM, _anywhere(length, most, draw)))
    return kept


def _anywhere(length: int, most: int, draw: random.Random) -> refinement.Spans:
    """Units of one length from a grid, in random order, until `most` positions are kept with the last one."""
    unit = refinement.UNIT_TOKENS
    starts = list(range(0, length - 1, unit))
    draw.shuffle(starts)
    kept = refinement.mark([(length - 1, length)], num_tokens=length)
    room = most - 1
    for start in starts:
        taken = min(room, unit, length - 1 - start)
        kept[start : start + taken] = b"\1" * taken
        room -= taken
    return refinement.spans(kept)
