"""Which outcomes of an outstanding verification are worth drafting ahead (docs/algorithms.md). Pure arithmetic.

A path root, d1 … dK has been sent. It ends in one of these ways: the first i drafts are accepted and the target puts
another token y in place of d(i+1), or all K are accepted and a bonus token y follows. Each *outcome* (i, y) is the root
of the next round. Its probability is estimated from the drafter's own distribution:

    P(i, y) = Π_{j ≤ i} a_j · (1 − a_{i+1}) · q_i(y) / (1 − q_i(d(i+1)))      for i < K
    P(K, y) = Π_{j ≤ K} a_j · q_K(y)

with a_j the measured acceptance of drafts of that confidence. For greedy decoding the target's other choice is
spread less evenly than q, but the order of the candidates is what matters here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from milliner.core import compute

# A branch costs 0.1 ms a step and saves a draft of some 30 ms when it is hit: 4 steps · 0.1 / 30, less what a larger
# batch delays the verification by. Constants of preset paper-wifi (docs/algorithms.md).
MIN_PROBABILITY = 0.004


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """`token_id` follows node `parent` of the path with `probability`."""

    parent: int
    token_id: int
    probability: float


def likely_outcomes(
    path: Sequence[int],
    expansions: Sequence[compute.Expansion | None],
    *,
    acceptance: Callable[[float], float],
    per_point: int,
) -> list[Outcome]:
    """Outcomes worth drafting, likeliest first: at most `per_point` at each acceptance point.

    `expansions[i]` belongs to `path[i]`; the last is None until the leaf has been expanded.
    """
    outcomes: list[Outcome] = []
    reached = 1.0
    for index, (node, expansion) in enumerate(zip(path, expansions, strict=True)):
        if expansion is None:
            break
        last = index == len(path) - 1
        outcomes.extend(_at_point(node, expansion, reached=reached, last=last, acceptance=acceptance)[:per_point])
        reached *= acceptance(expansion.confidence)
    likely = [outcome for outcome in outcomes if outcome.probability >= MIN_PROBABILITY]
    return sorted(likely, key=lambda outcome: -outcome.probability)


def _at_point(
    node: int, expansion: compute.Expansion, *, reached: float, last: bool, acceptance: Callable[[float], float]
) -> list[Outcome]:
    if last:
        return [Outcome(node, token_id, reached * q) for token_id, q in expansion.candidates]
    others = [(token_id, q) for token_id, q in expansion.candidates if token_id != expansion.drafted]
    drafted_q = next((q for token_id, q in expansion.candidates if token_id == expansion.drafted), 0.0)
    missed = reached * (1.0 - acceptance(expansion.confidence))
    spread = max(1e-6, 1.0 - drafted_q)
    return [Outcome(node, token_id, missed * q / spread) for token_id, q in others]
