"""Rollback, many sessions in one pass, draft trees, windows: each against running the tokens plainly, alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.numerics import tiny_models

from milliner.core import errors
from milliner.model import kv_cache, ragged

# Softcapping, windows and plain layers; experts; sinks.
CASES = ("llama", "mistral, window", "gemma2", "gemma3", "mixtral", "gpt_oss")
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order


@pytest.mark.parametrize("case", CASES)
def test_rollback_then_recompute(case: str, tmp_path: Path) -> None:
    tiny_models.save(case, tmp_path)
    session = tiny_models.open_session(tiny_models.load(tmp_path, 0, 1, 3))
    tokens = tiny_models.prompt(40)
    expected = session.logits(tokens, 0)
    for position in (39, 33, 20, 0):
        session.logits(tiny_models.prompt(len(tokens) - position + 5, seed=1), position)  # a refused continuation
        torch.testing.assert_close(session.logits(tokens[position:], position), expected[position:], **CLOSE)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_sessions_of_one_batch_do_not_see_each_other(case: str, grouped: bool, tmp_path: Path) -> None:
    tiny_models.save(case, tmp_path)
    (whole,) = tiny_models.load(tmp_path, 0, 3)
    (cache,) = tiny_models.caches([whole])
    prompts = [tiny_models.prompt(n, seed=n) for n in (3, 17, 30, 11, 12)]
    steps = [1, 1, 5, 1, 4]  # new tokens in the common pass; the third session starts with it
    cached = [len(p) - n if i != 2 else 0 for i, (p, n) in enumerate(zip(prompts, steps, strict=True))]
    sequences = [cache.open() for _ in prompts]
    for tokens, sequence, start in zip(prompts, sequences, cached, strict=True):
        if start:
            sequence.reserve(start)
            segment = ragged.Segment(sequence, 0, start)
            whole.forward(
                whole.embed(tokens[:start]), ragged.RaggedBatch.build([segment], torch_device=tiny_models.CPU)
            )
    segments = []
    for tokens, sequence, start in zip(prompts, sequences, cached, strict=True):
        sequence.reserve(len(tokens) - start)
        segments.append(ragged.Segment(sequence, start, len(tokens) - start))
    batch = ragged.RaggedBatch.build(segments, torch_device=tiny_models.CPU, grouped=grouped)
    fresh = torch.cat([tokens[start:] for tokens, start in zip(prompts, cached, strict=True)])
    logits = whole.logits(whole.forward(whole.embed(fresh), batch))
    expected = [
        tiny_models.open_session([whole]).logits(tokens, 0)[start:]
        for tokens, start in zip(prompts, cached, strict=True)
    ]
    torch.testing.assert_close(logits, torch.cat(expected), **CLOSE)
    assert [sequence.kv_len for sequence in sequences] == [len(tokens) for tokens in prompts]


def test_scattered_pages_give_the_same(tmp_path: Path) -> None:
    tiny_models.save("gemma2", tmp_path)
    (whole,) = tiny_models.load(tmp_path, 0, 3)
    (cache,) = tiny_models.caches([whole], num_pages=12)
    first, second, third = (cache.open() for _ in range(3))
    for sequence, num_tokens in ((first, 16), (second, 8), (third, 16)):
        sequence.kv_len = 0
        sequence.reserve(num_tokens)
    first.close()
    third.close()
    second.reserve(40)  # no free run is long enough: it takes pages from both sides
    assert second.base_slot is None
    tokens = tiny_models.prompt(40)
    session = tiny_models.Session([whole], [second])
    torch.testing.assert_close(session.logits(tokens, 0), tiny_models.open_session([whole]).logits(tokens, 0), **CLOSE)


def tree_of(parents: list[int], start: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, visibility and slot positions of a draft tree after `start` tokens; parent -1 is the last of them."""
    num_nodes = len(parents)
    depths: list[int] = []
    visible = torch.zeros(num_nodes, start + num_nodes, dtype=torch.bool)
    visible[:, :start] = True
    for node, parent in enumerate(parents):
        depths.append(0 if parent < 0 else depths[parent] + 1)
        if parent >= 0:
            visible[node] = visible[parent]
        visible[node, start + node] = True
    positions = start + torch.tensor(depths)
    return positions, visible, torch.cat([torch.arange(start), positions])


def paths_of(parents: list[int]) -> list[list[int]]:
    paths: list[list[int]] = []
    for node, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), node])
    return paths


@pytest.mark.parametrize("start", [1, 6, 30])
@pytest.mark.parametrize("case", CASES)
def test_draft_tree_equals_each_path_alone(case: str, start: int, tmp_path: Path) -> None:
    tiny_models.save(case, tmp_path)
    model_slices = tiny_models.load(tmp_path, 0, 2, 3)
    prompt = tiny_models.prompt(start)
    # A chain with a sibling at each step: deeper than the window, and slots run ahead of positions.
    parents = [-1, -1, *(node - 2 if node % 2 == 0 else node - 3 for node in range(2, 24))]
    nodes = tiny_models.prompt(len(parents), seed=5)
    positions, visible, slot_positions = tree_of(parents, start)
    session = tiny_models.open_session(model_slices)
    session.logits(prompt, 0)
    logits = session.logits(nodes, start, positions=positions, visible=visible, slot_positions=slot_positions)
    for node, path in enumerate(paths_of(parents)):
        alone = tiny_models.open_session(model_slices).logits(torch.cat([prompt, nodes[path]]), 0)
        torch.testing.assert_close(logits[node], alone[-1], **CLOSE)


@pytest.mark.parametrize("case", ["llama", "gemma3"])
def test_tree_grown_one_by_one_then_rooted_again(case: str, tmp_path: Path) -> None:
    """A tree grows in several passes; then an inner path is moved to the front and generation goes on from it."""
    tiny_models.save(case, tmp_path)
    model_slices = tiny_models.load(tmp_path, 0, 3)
    start = 21
    prompt = tiny_models.prompt(start)
    parents = [-1, -1, 1, 0, 2]
    nodes = tiny_models.prompt(len(parents), seed=5)
    positions, visible, slot_positions = tree_of(parents, start)
    session = tiny_models.open_session(model_slices)
    session.logits(prompt, 0)
    for begin, end in ((0, 2), (2, 3), (3, 5)):
        session.logits(
            nodes[begin:end],
            start + begin,
            positions=positions[begin:end],
            visible=visible[begin:end, : start + end],
            slot_positions=slot_positions[: start + end],
        )
    path = [1, 2, 4]
    (sequence,) = session.sequences
    sequence.move([start + node for node in path], [start + i for i in range(len(path))])
    after = tiny_models.prompt(4, seed=6)
    expected = tiny_models.open_session(model_slices).logits(torch.cat([prompt, nodes[path], after]), 0)
    torch.testing.assert_close(session.logits(after, start + len(path)), expected[-len(after) :], **CLOSE)


def test_full_cache_refuses_and_changes_nothing(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path)
    (whole,) = tiny_models.load(tmp_path, 0, 3)
    (cache,) = tiny_models.caches([whole], num_pages=4)
    session = tiny_models.Session([whole], [cache.open()])
    tokens = tiny_models.prompt(16)
    session.logits(tokens[:10], 0)
    (sequence,) = session.sequences
    with pytest.raises(errors.KVCacheFull):
        sequence.reserve(7)
    assert (sequence.kv_len, cache.free_pages) == (10, 1)
    expected = tiny_models.open_session([whole]).logits(tokens, 0)[10:]
    torch.testing.assert_close(session.logits(tokens[10:], 10), expected, **CLOSE)


def test_positions_beyond_the_context_are_refused(tmp_path: Path) -> None:
    """Phi-3's long rope is exact up to the original context only: 128 of 256 here."""
    tiny_models.save("phi3, longrope", tmp_path)
    session = tiny_models.open_session(tiny_models.load(tmp_path, 0, 3))
    session.logits(tiny_models.prompt(128), 0)
    with pytest.raises(errors.PositionMismatch):
        session.logits(tiny_models.prompt(1), 128)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_caches_take_half_the_bytes(dtype: torch.dtype) -> None:
    spec = kv_cache.KVSpec(first_layer=0, layers=(kv_cache.LayerKV(num_kv_heads=2, head_dim=8),) * 3)
    assert kv_cache.PagedKVCache.bytes_per_token(spec, dtype) == 3 * 2 * 2 * 8 * 2
    assert kv_cache.PagedKVCache.bytes_per_token(spec, torch.float32) == 3 * 2 * 2 * 8 * 4
