"""The same slices on a GPU: grouped reads, windows, trees and long chunks against the CPU in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.numerics import tiny_models

from milliner.model import checkpoint, kv_cache, ragged
from milliner.model import slice as slices

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("case", ["llama", "mistral, window", "gemma2", "gemma3", "mixtral", "gpt_oss"])
def test_batches_on_a_gpu_equal_the_cpu(case: str, tmp_path: Path) -> None:
    tiny_models.save(case, tmp_path)
    spec = slices.SliceSpec(0, 3, embedding=True, lm_head=True)
    rows: list[torch.Tensor] = []
    for torch_device in (torch.device("cpu"), torch.device("cuda")):
        whole = slices.load_slice(
            checkpoint.Checkpoint.open(tmp_path), spec, dtype=torch.float32, torch_device=torch_device
        )
        cache = kv_cache.PagedKVCache(
            whole.kv_spec, num_pages=256, page_tokens=4, dtype=torch.float32, torch_device=torch_device
        )
        rows.append(_answers(whole, [cache.open() for _ in range(4)]))
    # TF32 is off by default for matrix products; kernels still sum in another order.
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-3, atol=1e-3)


def _answers(whole: slices.ModelSlice, sequences: list[kv_cache.SequenceKV]) -> torch.Tensor:
    """Prompts, single tokens at different lengths, then a long chunk beside a short one and a tree; all logits."""
    collected: list[torch.Tensor] = []
    starts = [0, 0, 0, 0]
    for lengths, tree in (((9, 20, 31, 31), False), ((1, 1, 1, 1), False), ((80, 5, 5, 5), True)):
        segments = []
        for i, (sequence, num_tokens) in enumerate(zip(sequences, lengths, strict=True)):
            sequence.reserve(num_tokens)
            visible = None
            if tree and i == 3:  # two branches: the last two tokens do not see the two before them
                visible = torch.ones(num_tokens, starts[i] + num_tokens, dtype=torch.bool).tril(starts[i])
                visible[-2:, -4:-2] = False
            segments.append(ragged.Segment(sequence, starts[i], num_tokens, visible=visible))
            starts[i] += num_tokens
        tokens = tiny_models.prompt(sum(lengths), seed=len(collected)).to(whole.torch_device)
        batch = ragged.RaggedBatch.build(segments, torch_device=whole.torch_device)
        with torch.no_grad():
            collected.append(whole.logits(whole.forward(whole.embed(tokens), batch)).cpu())
    return torch.cat(collected)
