"""Sampled answers of Hat are distributed as the whole model's: chi-squared over a small vocabulary."""

from __future__ import annotations

import collections
import itertools
import pathlib

import pytest
import scipy.stats
import torch
import transformers
from tests.system import split_topology

from milliner.core import types
from milliner.engine.device import device_model
from milliner.model import sampling
from milliner.strategies import options as strategy_options

VOCAB_SIZE = 3
ANSWERS = 400
SIGNIFICANCE = 1e-3  # seeds are fixed: one look, no flakiness


def exact_distribution(
    model: pathlib.Path, prompt: list[int], params: types.SamplingParams
) -> dict[tuple[int, ...], float]:
    """The probability of every answer of three tokens under the whole model."""
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    answers = list(itertools.product(range(VOCAB_SIZE), repeat=3))
    with torch.inference_mode():
        logits = whole(torch.tensor([[*prompt, *answer] for answer in answers])).logits[:, len(prompt) - 1 : -1]
    p = sampling.log_distribution(logits.reshape(-1, VOCAB_SIZE), params).exp().reshape(len(answers), 3, VOCAB_SIZE)
    picked = p.gather(-1, torch.tensor(answers)[..., None])[..., 0].double().prod(-1)
    return dict(zip(answers, picked.tolist(), strict=True))


@pytest.mark.parametrize(
    "params",
    [types.SamplingParams(temperature=0.8), types.SamplingParams(temperature=1.2, top_p=0.9, top_k=2)],
    ids=["temperature", "top-p, top-k"],
)
async def test_hat_samples_as_the_whole_model(params: types.SamplingParams, tmp_path: pathlib.Path) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=0.3, vocab_size=VOCAB_SIZE)
    prompt = [1, 0, 2, 0, 2, 2, 1]
    expected = exact_distribution(model, prompt, params)
    drafting = strategy_options.DraftingOptions(
        control=strategy_options.DraftControl.FIXED, max_tokens=2, min_confidence=0.0, parallel_branches=2
    )
    counts: collections.Counter[tuple[int, ...]] = collections.Counter()
    drafted = accepted = 0
    async with split_topology.running(device_model.DeviceFiles(model, 2, adapter=drafter)) as topology:
        generator = topology.strategy(strategy_options.HatOptions(drafting=drafting))
        for seed in range(ANSWERS):
            used = split_topology.new_record(len(prompt))
            keyed = types.SamplingParams(params.temperature, params.top_p, params.top_k, seed=seed)
            said = await split_topology.answer(generator, prompt, 3, sampling=keyed, request_record=used)
            counts[tuple(said)] += 1
            counters = used.finish(finish_reason="length").counters
            drafted += counters["num_drafted"]
            accepted += counters["num_accepted"]
    assert 0.1 < accepted / drafted < 0.95  # both branches of the rule were taken
    assert all(expected[answer] > 0.0 for answer in counts)
    assert chi_squared(counts, expected) > SIGNIFICANCE


def chi_squared(counts: collections.Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """The p-value; answers expected fewer than five times are pooled, as the test demands."""
    common = [answer for answer, p in expected.items() if p * ANSWERS >= 5]
    observed = [counts[answer] for answer in common]
    hoped = [expected[answer] * ANSWERS for answer in common]
    observed.append(ANSWERS - sum(observed))
    hoped.append(ANSWERS - sum(hoped))
    assert len(common) >= 8
    return float(scipy.stats.chisquare(observed, hoped).pvalue)
