"""Prompts that begin alike are computed once, and answers stay the model's, whatever is kept, evicted or taken over."""

from __future__ import annotations

import asyncio
import pathlib
import random

import pytest
from tests.system import split_topology, whole_tiers

from milliner.core import errors, generation, types
from milliner.engine import generation_scheduler

GREEDY = generation.Sampler(types.SamplingParams(), seed=0)
SYSTEM = tuple((11 * index + 5) % 60 + 1 for index in range(100))
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("reuse"), split_layer=2, deep_share=1.0)
    return written


async def answer(tier: whole_tiers.Tier, prompt: tuple[int, ...], *, salt: str = "") -> tuple[list[int], int]:
    session = await tier.model.open(GREEDY, max_positions=len(prompt) + NEW_TOKENS, prompt_ids=prompt, salt=salt)
    try:
        found = [step.token.token_id async for step in session.generate(prompt, limit=NEW_TOKENS)]
        return found, session.cached_tokens
    finally:
        await session.close()


async def test_a_shared_beginning_is_computed_once(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as tier:
        for tail in range(1, 6):
            prompt = (*SYSTEM, *range(tail, tail + 9))
            tokens, cached = await answer(tier, prompt)
            assert tokens == split_topology.reference(folder, prompt, NEW_TOKENS)
            assert cached == (0 if tail == 1 else 96)  # whole blocks of 32


async def test_the_next_turn_begins_behind_the_last_answer(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as tier:
        prompt, cached = SYSTEM, []
        for turn in range(4):
            tokens, known = await answer(tier, prompt)
            assert tokens == split_topology.reference(folder, prompt, NEW_TOKENS)
            cached.append(known)
            prompt = (*prompt, *tokens, *range(turn + 1, turn + 30))
        assert cached[0] == 0
        assert cached == sorted(cached)
        assert cached[-1] >= 96 + 64


async def test_tenants_share_nothing(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as tier:
        await answer(tier, SYSTEM, salt="a")
        assert (await answer(tier, SYSTEM, salt="b"))[1] == 0
        assert (await answer(tier, SYSTEM, salt="a"))[1] == 96


@pytest.mark.parametrize("swap_pages", [0, 48])
async def test_a_small_cache_serves_many_with_the_right_answers(folder: pathlib.Path, swap_pages: int) -> None:
    """Room for two sessions: what is kept is copied, taken over or evicted all the time, and with host memory beside
    it, sessions that have begun with it move."""
    chance, references = random.Random(2), dict[tuple[int, ...], list[int]]()
    async with whole_tiers.tier(
        folder,
        origin=types.TokenOrigin.CLOUD,
        num_pages=16,
        swap_pages=swap_pages,
        policy=generation_scheduler.SkipJoinFeedbackQueue(max_sequences=2),
    ) as tier:

        async def one(index: int) -> None:
            prompt = (*SYSTEM[: chance.choice((40, 70, 100))], *range(7, 7 + index % 3))
            while True:
                try:
                    tokens, _ = await answer(tier, prompt, salt=chance.choice("ab"))
                except errors.CapacityError:
                    await asyncio.sleep(0.005)
                else:
                    break
            if prompt not in references:
                references[prompt] = split_topology.reference(folder, prompt, NEW_TOKENS)
            assert tokens == references[prompt]

        async with asyncio.timeout(60):
            await asyncio.gather(*(one(index) for index in range(40)))
        assert tier.engine.load().running_sessions == 0
        assert (tier.engine.swapped().moved_out_bytes > 0) == (swap_pages > 0)


async def test_whoever_leaves_before_the_first_batch_costs_no_page(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD, num_pages=16) as tier:
        await answer(tier, SYSTEM)
        for _ in range(20):  # each would adopt what is kept, and none computes anything
            session = await tier.model.open(GREEDY, max_positions=16 * 16, prompt_ids=SYSTEM)
            await session.close()
        whole = (*SYSTEM, *(index % 60 + 1 for index in range(140)))  # with its answer nearly all of the cache
        tokens, _ = await answer(tier, whole)
        assert tokens == split_topology.reference(folder, whole, NEW_TOKENS)
