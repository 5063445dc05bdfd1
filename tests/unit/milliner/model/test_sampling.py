"""Sampling distributions, keyed noise, and how drafts fare against it (chi-squared where it is chance)."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import scipy.stats
import torch
import transformers

from milliner.core import errors, types
from milliner.model import sampling

DRAWS = 20_000
SAMPLED = types.SamplingParams(temperature=1.0)
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
    ours = sampling.log_distribution(logits, types.SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p))
    torch.testing.assert_close(ours.exp(), expected)
    assert torch.equal(ours == -torch.inf, expected == 0.0)


@pytest.mark.parametrize("top_p", [1.0, 0.999])
def test_an_unlikely_token_is_unlikely_and_not_impossible(top_p: float) -> None:
    """Below 1e-45 a probability is no float32: the logarithm of its softmax was that of a token ruled out."""
    params = types.SamplingParams(temperature=0.1, top_p=top_p)
    logits = torch.tensor([[12.0, 0.0, 11.99]])
    said = sampling.log_distribution(logits, params)[0]
    assert float(said[1]) == (pytest.approx(-120.64, abs=0.05) if top_p == 1.0 else -torch.inf)
    assert float(said[[0, 2]].exp().sum()) == pytest.approx(1.0)


def test_a_row_is_sorted_once_and_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a pass over the whole vocabulary, for every row and branch of the draft tree."""
    calls: collections.Counter[str] = collections.Counter()
    for name in ("sort", "softmax", "log_softmax"):
        original = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
            calls[name] += 1
            return original(self, *args, **options)

        monkeypatch.setattr(torch.Tensor, name, counted)
    sampling.log_distribution(torch.zeros(2, 9), types.SamplingParams(temperature=0.8, top_p=0.9))
    assert calls == {"sort": 1, "log_softmax": 1}


def picked(row: torch.Tensor, *, seed: int, position: int = 3) -> int:
    """The token that [V] probabilities and the noise of a position pick."""
    scores = sampling.Picker(SAMPLED, seed=seed).scores(row.log()[None], [position])
    return int(scores.argmax())


def test_noise_depends_on_its_key_alone() -> None:
    def row(seed: int, position: int, count: int = 9) -> list[float]:
        noise = sampling.gumbel(seed=seed, position=position, count=count, torch_device=torch.device("cpu"))
        return [float(value) for value in noise]

    assert row(1, 3) == row(1, 3)
    assert row(1, 3, count=20)[:9] == row(1, 3)  # a larger vocabulary leaves the first tokens' noise alone
    assert not set(row(1, 3)) & (set(row(2, 3)) | set(row(1, 4)))
    picker = sampling.Picker(SAMPLED, seed=1)
    before = picker.scores(torch.zeros(1, 9), [3])
    picker.scores(torch.zeros(100, 9), range(10, 110))  # the row of position 3 is forgotten on the way
    assert torch.equal(picker.scores(torch.zeros(1, 9), [3]), before)
    picker.forget(4)
    assert torch.equal(picker.scores(torch.zeros(1, 9), [3]), before)


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-40, 5e-324])
def test_a_temperature_that_logits_cannot_be_divided_by_is_greedy(temperature: float) -> None:
    params = types.SamplingParams(temperature=temperature)
    logits = torch.tensor([[1.0, 50.0, 3.0]])
    assert torch.isfinite(sampling.log_distribution(logits, params)).all()
    assert int(sampling.Picker(params, seed=1).scores(logits, [4]).argmax()) == 1


def test_noise_is_gumbels_and_independent_between_neighbours() -> None:
    rows = torch.stack(
        [sampling.gumbel(seed=5, position=p, count=4096, torch_device=torch.device("cpu")) for p in range(16)]
    )
    assert scipy.stats.kstest(rows.flatten().numpy(), "gumbel_r").pvalue > SIGNIFICANCE
    for first, second in ((rows[:, :-1], rows[:, 1:]), (rows[:-1], rows[1:])):  # tokens, positions
        correlation = float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])
        assert abs(correlation) < 4 / first.numel() ** 0.5  # four standard deviations of chance


def test_picked_tokens_follow_the_distribution() -> None:
    p = torch.tensor([0.5, 0.0, 0.3, 0.2])
    counts = collections.Counter(picked(p, seed=seed) for seed in range(DRAWS))
    assert counts[1] == 0
    assert counts_fit(collections.Counter({0: counts[0], 1: counts[2], 2: counts[3]}), p[[0, 2, 3]]) > SIGNIFICANCE


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0], ids=["alike", "different", "opposed"])
def test_a_draft_stands_as_often_as_the_coupling_promises(sharpness: float) -> None:
    generator = torch.Generator().manual_seed(2)
    p = torch.randn(8, generator=generator).softmax(-1)
    q = (p.log() + sharpness * torch.randn(8, generator=generator)).softmax(-1)
    stood = 0
    for seed in range(DRAWS // 4):
        scores = sampling.Picker(SAMPLED, seed=seed).scores(p.log().expand(2, -1), [3, 4])
        stood += sampling.accept(scores, [picked(q, seed=seed)]).num_accepted
    distance = float((p - q).abs().sum() / 2)
    # Exactly Σ_x 1 / Σ_y max(p_y / p_x, q_y / q_x): the race of exponentials that both want x to win.
    ratios = torch.maximum(p[None] / p[:, None], q[None] / q[:, None]).sum(dim=-1)
    expected = float((1 / ratios).sum())
    assert expected >= (1 - distance) / (1 + distance)
    assert stood / (DRAWS // 4) == pytest.approx(expected, abs=0.03)  # 5,000 draws: standard deviation 0.007


def test_greedy_acceptance_stops_at_the_first_difference() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([4, 5, 6, 7]), 9).float()
    assert sampling.accept(logits, [4, 5, 6]) == sampling.Acceptance(3, 7)
    assert sampling.accept(logits, [4, 8, 6]) == sampling.Acceptance(1, 5)
    assert sampling.accept(logits[:1], []) == sampling.Acceptance(0, 4)


@pytest.mark.parametrize("params", [types.SamplingParams(), SAMPLED])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_score_that_is_no_number_is_no_token(params: types.SamplingParams, value: float) -> None:
    """A model with damaged weights, or one that overflows in its dtype, answered with token 0 and status 200."""
    logits = torch.tensor([[1.0, 9.0, 3.0], [value, 9.0, 3.0], [1.0, -torch.inf, 3.0]])
    picker = sampling.Picker(params, seed=1)
    with pytest.raises(errors.ProtocolError, match="not finite"):
        sampling.accept(picker.scores(logits[1:2], [4]), [])
    scores = picker.scores(logits, [4, 5, 6])
    wrong_draft = 2 if int(scores[0].argmax()) != 2 else 1
    assert sampling.accept(scores, [wrong_draft, 0]).num_accepted == 0  # what comes after it is not looked at
    assert sampling.accept(picker.scores(logits[2:], [6]), []).token_id != 1  # a token that is ruled out harms nobody


def test_logprobs_are_the_targets_own() -> None:
    logits = torch.tensor([1.0, 2.0, 0.5])
    logprob, top = sampling.logprobs(logits, 0, 2)
    expected = logits.log_softmax(-1)
    assert logprob == pytest.approx(float(expected[0]))
    assert [token for token, _ in top] == [1, 0]


def test_greedy_confidences_are_the_plain_softmax_whatever_the_filters() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    filtered = sampling.log_distribution(logits, types.SamplingParams(temperature=0.0, top_k=1, top_p=0.1))
    torch.testing.assert_close(filtered, logits.log_softmax(-1))
