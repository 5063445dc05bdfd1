"""STOP and EXTEND: what the cloud generates follows the device, as far as there is room."""

from __future__ import annotations

import asyncio
import pathlib

import pytest
from tests.system import split_topology, whole_tiers

from milliner.core import generation, types
from milliner.engine import token_service

PROMPT = tuple((7 * index + 3) % 60 + 1 for index in range(45))
PAGES = 8  # of 16 tokens: 128 positions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("whole"), split_layer=2, deep_share=1.0)
    return written


def opening(cloud: whole_tiers.Tier, session_id: str, max_tokens: int) -> generation.GenerationOpen:
    return generation.GenerationOpen(
        session_id=session_id,
        model_digest=cloud.model.info.model_digest,
        tokenizer_digest=cloud.model.info.tokenizer_digest,
        prompt_ids=PROMPT,
        max_tokens=max_tokens,
        sampler=generation.Sampler(types.SamplingParams(), seed=0),
        salt=session_id,
    )


async def generated(service: token_service.EngineTokenService, session_id: str, *, move_to: int) -> list[int]:
    """The session's tokens, its limit moved after the third."""
    tokens: list[int] = []
    async with asyncio.timeout(20):
        async for token in service.generate(session_id):
            tokens.append(token.step.token.token_id)
            if token.index == 2:
                await service.set_limit(session_id, move_to)
    return tokens


async def test_a_limit_moves_up_into_free_room_and_down_at_once(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD, num_pages=PAGES) as cloud:
        service = whole_tiers.service(cloud)
        reference = split_topology.reference(folder, PROMPT, 80)
        await service.open(opening(cloud, "up", 8))
        assert await generated(service, "up", move_to=80) == reference, "beyond the pages that it was opened with"
        await service.open(opening(cloud, "down", 40))
        down = await generated(service, "down", move_to=6)
        assert down == reference[: len(down)]
        assert 6 <= len(down) < 40
        assert cloud.engine.load().running_sessions == 0
        assert cloud.engine.load().kv_used_share == 0.0


async def test_where_there_is_no_room_nothing_changes(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD, num_pages=PAGES) as cloud:
        service = whole_tiers.service(cloud)
        await service.open(opening(cloud, "other", 16))
        await service.open(opening(cloud, "one", 16))  # four pages each: the cache is promised
        assert await generated(service, "one", move_to=40) == split_topology.reference(folder, PROMPT, 16)
        await service.close("other")
        await service.open(opening(cloud, "alone", 16))
        most = cloud.model.info.max_positions
        tokens = await generated(service, "alone", move_to=most)  # with its prompt more than the model's context
        assert tokens == split_topology.reference(folder, PROMPT, 16)
