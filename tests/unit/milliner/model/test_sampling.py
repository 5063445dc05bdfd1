"""Sampling distributions, keyed draws, and the exactness of speculative sampling (chi-squared)."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import scipy.stats
import torch
import transformers

from milliner.core import types
from milliner.model import sampling

DRAWS = 20_000
SIGNIFICANCE = 1e-3  # the draws are keyed, so the outcome is always the same: no flakiness, one look


def counts_fit(counts: collections.Counter[int], expected: torch.Tensor) -> float:
    """The p-value of the counts under `expected` [V]."""
    observed = [counts[token] for token in range(len(expected))]
    return float(scipy.stats.chisquare(observed, (expected.double() / expected.double().sum() * DRAWS).tolist()).pvalue)


@pytest.mark.parametrize("temperature", [0.5, 0.8, 1.3])
@pytest.mark.parametrize("top_k", [0, 5])
@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_distributions_are_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1))
    warpers = transformers.LogitsProcessorList([transformers.TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(transformers.TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(transformers.TopPLogitsWarper(top_p))
    seen: Any = torch.zeros(4, 1, dtype=torch.long)
    expected = warpers(seen, logits.clone()).softmax(-1)
    ours = sampling.distribution(logits, types.SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours, expected)


def test_draws_depend_on_their_key_alone_and_follow_the_distribution() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.2])
    key = {"position": 3, "stream": sampling.Stream.DRAFT}
    assert sampling.draw(p, seed=1, **key) == sampling.draw(p, seed=1, **key)  # type: ignore[arg-type]
    counts = collections.Counter(
        sampling.draw(p, seed=seed, position=3, stream=sampling.Stream.DRAFT) for seed in range(DRAWS)
    )
    assert counts[1] == 0
    assert counts_fit(collections.Counter({0: counts[0], 1: counts[2], 2: counts[3]}), p[[0, 2, 3]]) > SIGNIFICANCE


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0], ids=["alike", "different", "opposed"])
def test_speculative_sampling_draws_from_the_target(sharpness: float) -> None:
    generator = torch.Generator().manual_seed(2)
    p = torch.randn(3, 8, generator=generator).softmax(-1)  # after the root and two drafts
    q = (p.log() + sharpness * torch.randn(3, 8, generator=generator)).softmax(-1)
    first, second = collections.Counter[int](), collections.Counter[int]()
    for seed in range(DRAWS):
        drafted = [sampling.draw(q[row], seed=seed, position=1 + row, stream=sampling.Stream.DRAFT) for row in range(2)]
        accepted = sampling.accept_sampled(p, [q[0], q[1]], drafted, seed=seed, position=0)
        said = [*drafted[: accepted.num_accepted], accepted.token_id]
        first[said[0]] += 1
        if len(said) > 1:
            second[said[1]] += 1
    assert counts_fit(first, p[0]) > SIGNIFICANCE
    observed = [second[token] for token in range(8)]
    expected = (p[1].double() / p[1].double().sum() * second.total()).tolist()
    assert scipy.stats.chisquare(observed, expected).pvalue > SIGNIFICANCE


def test_a_wrong_rule_would_be_noticed() -> None:
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    always = collections.Counter(
        sampling.draw(q, seed=seed, position=1, stream=sampling.Stream.DRAFT) for seed in range(DRAWS)
    )
    assert counts_fit(always, p) < 1e-12


def test_greedy_acceptance_stops_at_the_first_difference() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([4, 5, 6, 7]), 9).float()
    assert sampling.accept_greedy(logits, [4, 5, 6]) == sampling.Acceptance(3, 7)
    assert sampling.accept_greedy(logits, [4, 8, 6]) == sampling.Acceptance(1, 5)
    assert sampling.accept_greedy(logits[:1], []) == sampling.Acceptance(0, 4)


def test_logprobs_are_the_targets_own() -> None:
    logits = torch.tensor([1.0, 2.0, 0.5])
    logprob, top = sampling.logprobs(logits, 0, 2)
    expected = logits.log_softmax(-1)
    assert logprob == pytest.approx(float(expected[0]))
    assert [token for token, _ in top] == [1, 0]


def test_greedy_confidences_are_the_plain_softmax_whatever_the_filters() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    filtered = sampling.distribution(logits, types.SamplingParams(temperature=0.0, top_k=1, top_p=0.1))
    torch.testing.assert_close(filtered, logits.softmax(-1))
