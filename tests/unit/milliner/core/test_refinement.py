"""Which spans of a prompt are kept: exactly as many positions as promised, whole units, all that is protected."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from milliner.core import refinement

CASES = range(300)  # seeds


def table(seed: int) -> tuple[list[float], refinement.Refinement]:
    """Random scores, peaked or flat, and a random wish."""
    draw = random.Random(seed)
    num_tokens = draw.choice([1, 2, 5, 31, 64, 100, 333, 1000])
    scores = [draw.random() ** draw.choice([1, 20]) for _ in range(num_tokens)]
    edges = sorted(draw.sample(range(num_tokens + 1), 2 * draw.randint(0, min(4, (num_tokens + 1) // 2))))
    protected = tuple(zip(edges[::2], edges[1::2], strict=True))
    return scores, refinement.Refinement(draw.choice([0.01, 0.3, 0.5, 0.7, 0.99]), protected)


def positions(spans: refinement.Spans) -> list[int]:
    return [position for start, end in spans for position in range(start, end)]


def test_what_is_kept_is_what_was_promised() -> None:
    for seed in CASES:
        check_promise(seed)


def check_promise(seed: int) -> None:
    scores, wanted = table(seed)
    num_tokens = len(scores)
    found = refinement.select(scores, wanted)
    kept = positions(found)
    must = {*positions(wanted.keep_spans), num_tokens - 1}
    assert kept == sorted(set(kept)) and kept[0] >= 0 and kept[-1] == num_tokens - 1, seed
    assert all(start < end for start, end in found)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found)), "spans that touch are one"
    assert must <= set(kept)
    assert len(kept) == max(math.ceil(wanted.keep_share * num_tokens), len(must)) == wanted.most_tokens(num_tokens)


def test_spans_and_gaps_are_no_crumbs() -> None:
    for seed in CASES:
        check_crumbs(seed)


def check_crumbs(seed: int) -> None:
    """Without protected spans nothing shorter than a unit is kept alone or left out alone, but for the very first
    tokens and for what the last of the room makes of the gap before the end."""
    scores, wanted = table(seed)
    found = refinement.select(scores, refinement.Refinement(wanted.keep_share))
    lengths = [end - start for start, end in found[1:]]
    gaps = [after[0] - before[1] for before, after in itertools.pairwise(found)]
    assert all(length >= refinement.UNIT_TOKENS for length in lengths[:-1])
    assert all(gap >= refinement.UNIT_TOKENS for gap in gaps[:-1])


def test_the_first_and_the_last_tokens_and_the_peaks_are_kept() -> None:
    scores = [0.0] * 1000
    scores[500:516] = [1.0] * 16
    kept = positions(refinement.select(scores, refinement.Refinement(0.2)))
    assert set(kept) >= {*range(refinement.SINK_TOKENS), *range(900 + refinement.SINK_TOKENS, 1000), *range(500, 516)}
    assert len(kept) == 200


def test_equal_scores_keep_what_is_nearest_to_the_end() -> None:
    found = refinement.select([0.0] * 1000, refinement.Refinement(0.3))
    assert found == ((0, refinement.SINK_TOKENS), (1000 - 300 + refinement.SINK_TOKENS, 1000))


def test_protected_spans_may_be_more_than_the_share_and_then_are_all() -> None:
    wanted = refinement.Refinement(0.1, ((0, 30), (50, 60)))
    assert refinement.select([1.0] * 100, wanted) == ((0, 30), (50, 60), (99, 100))


def test_spans_of_a_very_long_prompt_stay_few() -> None:
    draw = random.Random(0)
    scores = [draw.random() for _ in range(refinement.MAX_UNITS * refinement.UNIT_TOKENS * 3)]
    assert len(refinement.select(scores, refinement.Refinement(0.5))) <= refinement.MAX_UNITS // 2 + 3


def test_what_is_read_comes_first_and_then_what_follows_it() -> None:
    for peak in (30, 77, 200, 411, 600):
        scores = [0.001] * 1000
        scores[peak] = 1.0
        shares = [
            (number, positions(refinement.select(scores, refinement.Refinement(number / 1000)))) for number in (44, 84)
        ]
        (_, few), (_, more) = shares
        assert peak in few, "room for one unit"
        assert set(more) >= {peak, peak + refinement.UNIT_TOKENS}, "room for two"


def test_a_unit_weighs_what_stands_before_it_the_less_the_further() -> None:
    draw = random.Random(7)
    scores = [draw.random() ** 20 for _ in range(300)]
    units = [(0, 20), (20, 45), (100, 116), (270, 300)]
    for (found, start, end), unit in zip(refinement.weighed(scores, units), units, strict=True):
        kernel = dict.fromkeys(range(start, end), 1.0)
        kernel |= {
            at: 1.0 - (start - at) / refinement.CARRY_TOKENS
            for at in range(max(0, start - refinement.CARRY_TOKENS), start)
        }
        expected = sum(scores[at] * weight for at, weight in kernel.items()) / sum(kernel.values())
        assert (start, end) == unit and found == pytest.approx(expected)


def test_an_even_prompt_favours_no_place() -> None:
    found = list(refinement.weighed([0.25] * 400, [(0, 16), (16, 32), (48, 70), (380, 400)]))
    assert [score for score, _, _ in found] == pytest.approx([0.25] * 4)
