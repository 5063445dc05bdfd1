"""What the cloud keeps of a prompt reaches the device with the first token, and is what the model's attention says,
however the prompt was computed."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib

import pytest
import torch
import transformers
from tests.system import split_topology, test_kv_swap, test_prefix_reuse, test_tokens_over_the_wire, whole_tiers

from milliner.core import generation, refinement, types
from milliner.engine import refiner
from milliner.model import checkpoint, families, prompt_watch

PROMPT = tuple((7 * index * index + 3 * index) % 60 + 1 for index in range(150))
WANTED = refinement.Refinement(0.5, ((30, 41),))
GREEDY = test_prefix_reuse.GREEDY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("refined"), split_layer=2, deep_share=1.0)
    return written


@pytest.fixture(scope="module")
def expected(folder: pathlib.Path) -> refinement.Spans:
    """The same from `transformers`' eager attention alone."""
    config = checkpoint.Checkpoint.open(folder).config
    layers = prompt_watch.choose_layers(families.kv_spec(config, start=0, end=config.num_hidden_layers))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        weights = model(torch.tensor([PROMPT]), output_attentions=True).attentions  # of each layer [1, H, T, T]
    paid = torch.stack([weights[layer][0, :, -refiner.QUERIES :].square().mean(0).sum(0) for layer in sorted(layers)])
    return refinement.select(paid.sum(0).tolist(), WANTED)


async def kept(tier: whole_tiers.Tier, wanted: refinement.Refinement | None) -> tuple[refinement.Spans | None, int]:
    """What is kept of the prompt, and how much of it was known before."""
    session = await tier.model.open(GREEDY, max_positions=len(PROMPT) + 2, prompt_ids=PROMPT, refinement=wanted)
    try:
        async for _ in session.generate(PROMPT, limit=2):
            assert (session.kept is None) == (wanted is None)
        return session.kept, session.cached_tokens
    finally:
        await session.close()


async def test_kept_spans_come_with_the_first_token_over_the_wire(
    folder: pathlib.Path, expected: refinement.Spans
) -> None:
    request = generation.GenerationOpen(
        session_id="s",
        model_digest="",
        tokenizer_digest=whole_tiers.TOKENIZER_DIGEST,
        prompt_ids=PROMPT,
        max_tokens=3,
        sampler=GREEDY,
    )
    asked = dataclasses.replace(
        request, session_id="r", keep_share=WANTED.keep_share, keep_spans=WANTED.keep_spans, max_tokens=3
    )
    async with test_tokens_over_the_wire.clouds(folder, num_replicas=1) as (_, _, reached):
        found = []
        for one in (request, asked):
            stream = await reached.transport.open(one)
            found.append([await stream.receive() for _ in range(3)])
            await stream.close()
    assert [token.kept for token in found[0]] == [None, None, None]
    assert [token.kept for token in found[1]] == [expected, None, None]
    assert [t.step.token.token_id for t in found[0]] == [t.step.token.token_id for t in found[1]]


async def test_pieces_and_reused_beginnings_keep_the_same(folder: pathlib.Path, expected: refinement.Spans) -> None:
    async with whole_tiers.tier(
        folder, origin=types.TokenOrigin.CLOUD, max_batch_tokens=20, max_frame_tokens=48
    ) as tier:
        assert await kept(tier, None) == (None, 0)
        spans, known = await kept(tier, WANTED)
        assert spans == expected
        assert 0 < known <= len(PROMPT) - refiner.QUERIES  # the queries were computed again


async def test_sequences_that_leave_the_accelerator_in_mid_prompt_keep_the_same(
    folder: pathlib.Path, expected: refinement.Spans
) -> None:
    pages = -(-len(PROMPT) // whole_tiers.PAGE_TOKENS) + 1
    async with whole_tiers.tier(
        folder,
        origin=types.TokenOrigin.CLOUD,
        num_pages=pages + pages // 2,
        swap_pages=4 * pages,
        policy=test_kv_swap.Whims(0),
    ) as tier:
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(kept(tier, WANTED) for _ in range(4)))
        assert [spans for spans, _ in found] == [expected] * 4
        assert tier.engine.swapped().moved_in_bytes > 0


async def test_a_prompt_shorter_than_the_window_is_refined_too(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as tier:
        short = PROMPT[: refiner.QUERIES // 2]
        session = await tier.model.open(
            GREEDY, max_positions=len(short) + 1, prompt_ids=short, refinement=refinement.Refinement(0.5)
        )
        async for _ in session.generate(short, limit=1):
            assert session.kept is not None
            assert sum(end - start for start, end in session.kept) == len(short) // 2
        await session.close()
