"""Speculative sampling draws from the target whatever is drafted, and whatever drafting looks at: chi-squared."""

from __future__ import annotations

import collections
import itertools

import pytest
import scipy.stats
import torch

from milliner.core import types
from milliner.model import sampling

VOCAB, LENGTH, ANSWERS = 3, 3, 6_000
SAMPLED = types.SamplingParams(temperature=1.0)
SIGNIFICANCE = 1e-3  # the noise is keyed, so the outcome is always the same: no flakiness, one look
Logits = dict[tuple[int, ...], torch.Tensor]


def tables(sharpness: float) -> tuple[Logits, Logits]:
    """Logits [V] of target and drafter after every text that an answer may begin with."""
    generator = torch.Generator().manual_seed(3)
    texts = [text for length in range(LENGTH) for text in itertools.product(range(VOCAB), repeat=length)]
    target = {text: torch.randn(VOCAB, generator=generator) for text in texts}
    drafter = {text: row + sharpness * torch.randn(VOCAB, generator=generator) for text, row in target.items()}
    return target, drafter


def plain_answer(target: Logits, *, seed: int) -> tuple[int, ...]:
    picker, text = sampling.Picker(SAMPLED, seed=seed), tuple[int, ...]()
    while len(text) < LENGTH:
        text += (int(picker.scores(target[text][None], [len(text)]).argmax()),)
    return text


def drafted_answer(target: Logits, drafter: Logits, *, seed: int) -> tuple[int, ...]:
    """Rounds whose drafts end when a certain token was drafted or the drafter is unsure: both look at the noise."""
    picker, text = sampling.Picker(SAMPLED, seed=seed), tuple[int, ...]()
    while len(text) < LENGTH:
        path = text
        while len(path) < LENGTH - 1:
            shares = picker.scores(drafter[path][None], [len(path)]).softmax(-1)[0]
            path += (int(shares.argmax()),)
            if path[-1] == 1 or float(shares.max()) < 0.7:
                break
        drafted = path[len(text) :]
        rows = torch.stack([target[path[:end]] for end in range(len(text), len(path) + 1)])  # [K + 1, V]
        accepted = sampling.accept(picker.scores(rows, range(len(text), len(path) + 1)), drafted)
        text += (*drafted[: accepted.num_accepted], accepted.token_id)
    return text


@pytest.mark.parametrize("sharpness", [0.5, 3.0], ids=["alike", "opposed"])
def test_answers_are_the_targets_whatever_is_drafted(sharpness: float) -> None:
    target, drafter = tables(sharpness)
    counts: collections.Counter[tuple[int, ...]] = collections.Counter()
    for seed in range(ANSWERS):
        answer = drafted_answer(target, drafter, seed=seed)
        assert answer == plain_answer(target, seed=seed)
        counts[answer] += 1
    answers = list(itertools.product(range(VOCAB), repeat=LENGTH))
    expected = [
        float(torch.stack([target[answer[:end]].softmax(-1)[answer[end]] for end in range(LENGTH)]).double().prod())
        for answer in answers
    ]
    hoped = [ANSWERS * share / sum(expected) for share in expected]
    assert min(hoped) >= 5  # what the test demands of every cell
    assert scipy.stats.chisquare([counts[answer] for answer in answers], hoped).pvalue > SIGNIFICANCE
