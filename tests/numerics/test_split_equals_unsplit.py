"""Every family, every split point, several chunk sizes: exactly the tokens of `transformers`' `generate`.

Logits are compared as well: 1e-5 of their largest magnitude, a few float32 roundings, because chunks and paged
attention add the same numbers in another order.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.numerics import tiny_models

from milliner.model import families

PROMPT_TOKENS = 70  # more than the largest chunk, 64
NEW_TOKENS = 8
TOLERANCE = 1e-5


def generate(model: torch.nn.Module, prompt: torch.Tensor) -> tuple[list[int], torch.Tensor]:
    """Greedy answer and its logits [NEW_TOKENS, V], from `transformers` alone."""
    out = model.generate(  # type: ignore[operator]
        prompt[None],
        attention_mask=torch.ones_like(prompt[None]),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return out.sequences[0, len(prompt) :].tolist(), torch.cat(out.logits)


def answer(session: tiny_models.Session, prompt: torch.Tensor, *, chunk_tokens: int) -> tuple[list[int], torch.Tensor]:
    """The same from slices: the prompt in chunks, then token by token."""
    for start in range(0, len(prompt), chunk_tokens):
        logits = session.logits(prompt[start : start + chunk_tokens], start)[-1:]
    rows = [logits]
    tokens = [int(logits.argmax())]
    while len(tokens) < NEW_TOKENS:
        rows.append(session.logits(torch.tensor(tokens[-1:]), len(prompt) + len(tokens) - 1))
        tokens.append(int(rows[-1].argmax()))
    return tokens, torch.cat(rows)


def compare(case: str, folder: Path, *, chunk_sizes: tuple[int, ...]) -> None:
    model = tiny_models.save(case, folder)
    prompt = tiny_models.prompt(PROMPT_TOKENS)
    expected, expected_logits = generate(model, prompt)
    assert len(set(expected)) > 2, "a model that repeats one token proves little"
    num_layers = model.config.num_hidden_layers
    for split in range(num_layers + 1):
        model_slices = tiny_models.load(folder, 0, split, num_layers)
        for chunk_tokens in chunk_sizes:
            tokens, logits = answer(tiny_models.open_session(model_slices), prompt, chunk_tokens=chunk_tokens)
            assert tokens == expected, f"{case}, split {split}, chunks of {chunk_tokens}"
            assert (logits - expected_logits).abs().max() <= TOLERANCE * expected_logits.abs().max()


@pytest.mark.parametrize("case", tiny_models.PROMISED)
def test_promised_families(case: str, tmp_path: Path) -> None:
    compare(case, tmp_path, chunk_sizes=(1, 7, 64, PROMPT_TOKENS))


@pytest.mark.parametrize("case", tiny_models.FURTHER)
def test_further_families(case: str, tmp_path: Path) -> None:
    compare(case, tmp_path, chunk_sizes=(7, PROMPT_TOKENS))


def test_every_listed_family_is_tested() -> None:
    assert {model_type for model_type, _ in tiny_models.CASES.values()} == set(families.FAMILIES)
