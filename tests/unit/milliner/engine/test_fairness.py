"""Forty sessions against a budget that verification alone exceeds: all of them get on, and equals get equal shares."""

from __future__ import annotations

import asyncio
import collections

from milliner.core import clock as clocks
from milliner.core.types import FrameKind, ReplyPositions
from milliner.engine import engine, executor, limits, scheduler

from . import toys

BUDGET_TOKENS = 64
VERIFYING = [f"verify{index}" for index in range(30)]  # 30 frames of 4 tokens: nearly two budgets
PROMPTS = [f"prompt{index}" for index in range(10)]
CHUNK_TOKENS, NUM_CHUNKS = 48, 6
VERIFY_TOKENS, NUM_ROUNDS = 4, 120


async def _verify(cloud: engine.Engine, name: str) -> None:
    for round_index in range(NUM_ROUNDS):
        start = round_index  # of four positions one was accepted
        await cloud.forward(toys.frame(name, start=start, tokens=VERIFY_TOKENS, reply=ReplyPositions.NONE))


async def _prefill(cloud: engine.Engine, name: str) -> None:
    starts = range(0, CHUNK_TOKENS * NUM_CHUNKS, CHUNK_TOKENS)
    chunks = [
        toys.frame(name, start=at, tokens=CHUNK_TOKENS, round_index=0, kind=FrameKind.CHUNK, reply=ReplyPositions.NONE)
        for at in starts
    ]
    await asyncio.gather(*(cloud.forward(chunk) for chunk in chunks))


async def _batches() -> list[list[tuple[str, int, int]]]:
    backend = toys.ToyBackend(num_pages=4096)
    backend.max_positions = 1024
    config = limits.EngineConfig(kv_cache_bytes=0, max_batch_tokens=BUDGET_TOKENS, max_sessions=64)
    worker = executor.ComputeExecutor(name="fairness")
    cloud = engine.Engine(backend, config=config, executor=worker, clock=clocks.LoopClock())
    for name in (*VERIFYING, *PROMPTS):
        await cloud.open(toys.session_open(name, max_positions=300))
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(cloud.run())
            async with asyncio.TaskGroup() as clients:
                for name in VERIFYING:
                    clients.create_task(_verify(cloud, name))
                for name in PROMPTS:
                    clients.create_task(_prefill(cloud, name))
            await cloud.stop()
    finally:
        worker.close()
    return backend.batches


async def test_forty_sessions_get_on_evenly_under_an_overload_of_verification() -> None:
    batches = await _batches()
    done: collections.Counter[str] = collections.Counter()
    last_served = dict.fromkeys(PROMPTS, 0)
    longest_wait = 0
    spread_of_verifying = spread_of_prompts = 0
    for number, pieces in enumerate(batches):
        assert sum(tokens for _, _, tokens in pieces) <= BUDGET_TOKENS
        for name, _, tokens in pieces:
            done[name] += tokens
        for name in {name for name, _, _ in pieces} & last_served.keys():
            longest_wait = max(longest_wait, number - last_served[name])
            last_served[name] = number
        verified = [done[name] for name in VERIFYING]
        if max(verified) < VERIFY_TOKENS * NUM_ROUNDS:  # until the first has finished
            spread_of_verifying = max(spread_of_verifying, max(verified) - min(verified))
        read = [done[name] for name in PROMPTS]
        if max(read) < CHUNK_TOKENS * NUM_CHUNKS:
            spread_of_prompts = max(spread_of_prompts, max(read) - min(read))
        last_served = {name: at for name, at in last_served.items() if done[name] < CHUNK_TOKENS * NUM_CHUNKS}
    assert done == dict.fromkeys(VERIFYING, VERIFY_TOKENS * NUM_ROUNDS) | dict.fromkeys(
        PROMPTS, CHUNK_TOKENS * NUM_CHUNKS
    )
    # Each verification waits for at most two batches, so nobody is more than two rounds ahead.
    assert spread_of_verifying <= 2 * VERIFY_TOKENS
    # Ten overdue prompts, at most four quarters of a budget to a batch: three batches more than the patience at most.
    assert longest_wait <= scheduler.PATIENCE_BATCHES + 4
    assert spread_of_prompts <= CHUNK_TOKENS
