"""Chunk sizes: the balance of upload and cloud time, its fixed point, and its bounds."""

from __future__ import annotations

import itertools

import pytest

from milliner.core import types
from milliner.strategies import chunking
from milliner.strategies import options as strategy_options

# Preset paper-wifi (docs/algorithms.md): 8,192 bytes at 10 MB/s, cloud 24 ms + 210 µs per token.
UPLOAD_S = 8192 / 10e6
LOAD = types.LoadReport(delay_fixed_s=0.024, delay_per_token_s=210e-6)
DYNAMIC = chunking.DynamicChunks(min_tokens=16, max_tokens=1024)


def sizes(
    planner: chunking.ChunkPlanner, *, prompt_tokens: int, upload_s: float | None, load: types.LoadReport = LOAD
) -> list[int]:
    """The chunks of a whole prompt."""
    chunks: list[int] = []
    while (start := sum(chunks)) < prompt_tokens:
        context = chunking.ChunkContext(
            start=start,
            prompt_tokens=prompt_tokens,
            previous_tokens=chunks[-1] if chunks else 0,
            load=load,
            upload_s=lambda tokens: None if upload_s is None else tokens * upload_s,
            shallow_s=lambda tokens: 0.006 + 65e-6 * tokens,
        )
        chunks.append(planner.next_tokens(context))
        assert 1 <= chunks[-1] <= context.remaining
    return chunks


def test_an_upload_bound_prompt_settles_at_the_size_where_upload_and_cloud_balance() -> None:
    best = 0.024 / (UPLOAD_S - 210e-6)  # X* of docs/algorithms.md with μ = 0: 39.4 tokens
    chunks = sizes(DYNAMIC, prompt_tokens=2048, upload_s=UPLOAD_S)
    assert chunks[0] == 16
    assert all(abs(tokens - best) < 1.5 for tokens in chunks[4:-1])


def test_other_sessions_in_the_batch_make_chunks_larger() -> None:
    alone = sizes(DYNAMIC, prompt_tokens=2048, upload_s=UPLOAD_S)
    busy = types.LoadReport(delay_fixed_s=0.024, delay_per_token_s=210e-6, other_tokens=100)
    assert sizes(DYNAMIC, prompt_tokens=2048, upload_s=UPLOAD_S, load=busy)[6] > alone[6] + 20


def test_a_cloud_bound_prompt_gets_few_and_growing_chunks() -> None:
    chunks = sizes(DYNAMIC, prompt_tokens=2048, upload_s=UPLOAD_S / 4)
    assert all(after > before for before, after in itertools.pairwise(chunks[:-1]))
    assert len(chunks) <= 8


def test_a_fast_link_grows_to_the_largest_chunks_at_once() -> None:
    assert sizes(DYNAMIC, prompt_tokens=3416, upload_s=1e-6) == [16, 328, 1024, 1024, 1024]


def test_an_unknown_link_gets_chunks_of_a_fixed_size() -> None:
    assert sizes(DYNAMIC, prompt_tokens=512, upload_s=None) == [chunking.UNKNOWN_LINK_TOKENS] * 4


def test_the_cloud_limits_chunks() -> None:
    load = types.LoadReport(delay_fixed_s=0.024, delay_per_token_s=210e-6, max_chunk_tokens=20)
    assert max(sizes(DYNAMIC, prompt_tokens=500, upload_s=UPLOAD_S, load=load)) <= 20 * chunking.LAST_CHUNK_SLACK


def test_fixed_and_whole() -> None:
    assert sizes(chunking.FixedChunks(7), prompt_tokens=20, upload_s=None) == [7, 7, 6]
    assert sizes(chunking.WholePrompt(), prompt_tokens=20, upload_s=UPLOAD_S) == [20]


@pytest.mark.parametrize("mode", list(strategy_options.ChunkingMode))
def test_every_mode_has_a_planner(mode: strategy_options.ChunkingMode) -> None:
    planner = chunking.build_planner(strategy_options.ChunkingOptions(mode=mode))
    assert sum(sizes(planner, prompt_tokens=700, upload_s=UPLOAD_S)) == 700
