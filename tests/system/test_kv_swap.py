"""Caches that move to host memory and back at many points of many answers: no token of any answer changes."""

from __future__ import annotations

import asyncio
import pathlib
import random
from collections.abc import Sequence

import pytest
from tests.system import split_topology, whole_tiers

from milliner.core import generation, types
from milliner.engine import generation_scheduler, scheduler

GREEDY = generation.Sampler(types.SamplingParams(), seed=0)
NEW_TOKENS, NUM_SESSIONS, NUM_PAGES = 24, 8, 14
PROMPTS = [tuple((7 * index + 3 * at) % 60 + 1 for at in range(20 + 9 * index)) for index in range(NUM_SESSIONS)]


class Whims:
    """A policy that goes on with one or two sequences, whichever it likes, so that caches move for nearly every token;
    prompts come in pieces, and move between two of them."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._order: dict[int, float] = {}

    def plan(self, waiting: Sequence[scheduler.Waiting], *, budget_tokens: int) -> list[scheduler.Share]:
        self._order.clear()
        return [scheduler.Share(frame.ticket, min(frame.num_tokens, 13)) for frame in self.rank(waiting)[:2]]

    def rank(self, waiting: Sequence[scheduler.Waiting]) -> list[scheduler.Waiting]:
        for frame in waiting:  # some that no batch was planned of
            self._order.setdefault(frame.ticket, self._chance.random())
        return sorted(waiting, key=lambda frame: self._order[frame.ticket])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("swap"), split_layer=2, deep_share=1.0)
    return written


@pytest.fixture(scope="module")
def references(folder: pathlib.Path) -> list[list[int]]:
    return [split_topology.reference(folder, prompt, NEW_TOKENS) for prompt in PROMPTS]


@pytest.mark.parametrize(
    "policy", [Whims(0), Whims(1), Whims(2), generation_scheduler.SkipJoinFeedbackQueue(max_sequences=2)]
)
async def test_every_answer_is_the_models_wherever_its_cache_was(
    folder: pathlib.Path, references: list[list[int]], policy: scheduler.SchedulingPolicy
) -> None:
    """All are open at once, and three to a half of their caches fit."""
    async with whole_tiers.tier(
        folder, origin=types.TokenOrigin.CLOUD, num_pages=NUM_PAGES, swap_pages=5 * NUM_PAGES, policy=policy
    ) as tier:

        async def one(prompt: tuple[int, ...]) -> list[int]:
            session = await tier.model.open(GREEDY, max_positions=len(prompt) + NEW_TOKENS, prompt_ids=prompt)
            try:
                return [step.token.token_id async for step in session.generate(prompt, limit=NEW_TOKENS)]
            finally:
                await session.close()

        async with asyncio.timeout(60):
            said = await asyncio.gather(*(one(prompt) for prompt in PROMPTS))
        moved = tier.engine.swapped()
    assert said == references
    assert 0 < moved.moved_in_bytes <= moved.moved_out_bytes  # who has ended may be out when it is closed
    assert (moved.sequences, moved.used_bytes) == (0, 0)
