"""What a prompt's last positions attend to is what `transformers`' own eager attention says, in every family.

1e-5 of the largest score: a few float32 roundings, as in the comparison of logits.
"""

from __future__ import annotations

import pathlib

import pytest
import torch
import transformers
from tests.numerics import tiny_models

from milliner.model import prompt_watch, ragged

PROMPT_TOKENS = 50
QUERIES = 12
TOLERANCE = 1e-5


def eager_scores(folder: pathlib.Path, prompt: torch.Tensor, layers: frozenset[int]) -> torch.Tensor:
    """[T]: squared weights of the last queries, summed over layers and queries, mean over heads."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        weights = model(prompt[None], output_attentions=True).attentions  # of each layer [1, H, T, T]
    return torch.stack([weights[layer][0, :, -QUERIES:].square().mean(0).sum(0) for layer in sorted(layers)]).sum(0)


def watched_scores(
    folder: pathlib.Path, prompt: torch.Tensor, layers: frozenset[int], *, chunk_tokens: int, beside: int
) -> torch.Tensor:
    """The same from a slice in chunks, with `beside` tokens of another session before it in every batch."""
    (model,) = tiny_models.load(folder, 0, max(layers) + 1)
    watch = prompt_watch.PromptWatch(num_tokens=len(prompt), num_queries=QUERIES, layers=layers)
    cache = tiny_models.open_session([model]).sequences[0].cache
    other, own = cache.open(), cache.open()
    for start in range(0, len(prompt), chunk_tokens):
        chunk = prompt[start : start + chunk_tokens]
        segments = []
        if beside:
            other.reserve(beside)
            segments.append(ragged.Segment(other, other.kv_len, beside))
        own.reserve(len(chunk))
        segments.append(ragged.Segment(own, start, len(chunk), watch=watch))
        batch = ragged.RaggedBatch.build(segments, torch_device=tiny_models.CPU)
        model.forward(model.embed(torch.cat([prompt[:beside], chunk])), batch)
    return watch.scores()


def compare(case: str, folder: pathlib.Path, *, chunk_tokens: int, beside: int) -> None:
    num_layers = tiny_models.save(case, folder).config.num_hidden_layers
    prompt, layers = tiny_models.prompt(PROMPT_TOKENS), frozenset(range(num_layers))
    expected = eager_scores(folder, prompt, layers)
    found = watched_scores(folder, prompt, layers, chunk_tokens=chunk_tokens, beside=beside)
    assert (found - expected).abs().max() <= TOLERANCE * expected.max()
    assert found.std() > 0.0


@pytest.mark.parametrize("case", tiny_models.CASES)
def test_scores_are_those_of_eager_attention(case: str, tmp_path: pathlib.Path) -> None:
    compare(case, tmp_path, chunk_tokens=PROMPT_TOKENS, beside=0)


@pytest.mark.parametrize("case", ["llama", "mistral, window", "gemma2", "gpt_oss"])
@pytest.mark.parametrize(("chunk_tokens", "beside"), [(7, 0), (20, 3), (1, 1)])
def test_chunks_and_other_sessions_change_nothing(
    case: str, chunk_tokens: int, beside: int, tmp_path: pathlib.Path
) -> None:
    compare(case, tmp_path, chunk_tokens=chunk_tokens, beside=beside)


def test_queries_that_are_computed_again_count_once() -> None:
    watch = prompt_watch.PromptWatch(num_tokens=3, num_queries=2, layers=frozenset({0}))
    for _ in range(2):
        watch.observe(0, torch.tensor([[[0.5, 0.5, 0.0]], [[0.25, 0.75, 0.0]]]), first_query=1, first_key=0)
        watch.observe(0, torch.tensor([[[1.0]]]), first_query=2, first_key=2)
    assert watch.scores().tolist() == [0.15625, 0.40625, 1.0]
