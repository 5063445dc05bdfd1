"""bfloat16 and float16 slices are as close to float32 as `transformers` in the same dtype.

Rounding differs with the order of sums, so the bound is relative: at most twice `transformers`' own root mean square
distance from float32, over all logits of a prompt. Pieces are short and long: short ones attend in float32 on a CPU.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tests.numerics import tiny_models

from milliner.model import checkpoint, kv_cache, ragged
from milliner.model import slice as slices


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", ["llama", "gemma2", "gemma3", "qwen3_moe", "gpt_oss"])
def test_no_worse_than_transformers(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    exact_model = tiny_models.save(case, tmp_path, initializer_range=0.1)
    half_model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    tokens = tiny_models.prompt(120)
    with torch.no_grad():
        exact = exact_model(tokens[None]).logits[0]
        theirs = half_model(tokens[None]).logits[0].float()
    whole = slices.load_slice(
        checkpoint.Checkpoint.open(tmp_path),
        slices.SliceSpec(0, 3, embedding=True, lm_head=True),
        dtype=dtype,
        torch_device=tiny_models.CPU,
    )
    cache = kv_cache.PagedKVCache(whole.kv_spec, num_pages=80, page_tokens=4, dtype=dtype, torch_device=tiny_models.CPU)
    first, second = cache.open(), cache.open()
    rows: list[torch.Tensor] = []
    for start, end in ((0, 17), (17, 24), (24, 40), (40, 41), (41, 120)):
        segments = []
        for sequence in (first, second):  # the same prompt twice: a batch of two sessions, read in groups
            sequence.reserve(end - start)
            segments.append(ragged.Segment(sequence, start, end - start))
        batch = ragged.RaggedBatch.build(segments, torch_device=tiny_models.CPU, grouped=True)
        hidden = whole.forward(whole.embed(tokens[start:end].repeat(2)), batch)
        assert hidden.dtype == dtype
        rows.append(whole.logits(hidden)[: end - start])
    ours = torch.cat(rows)
    assert ours.dtype == torch.float32
    assert (ours - exact).square().mean() <= 4 * (theirs - exact).square().mean()
