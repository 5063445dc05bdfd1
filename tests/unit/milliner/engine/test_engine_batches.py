"""Batches over a toy backend: who shares one, in which order, and what is measured."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from milliner.core import compute
from milliner.core.types import FrameKind, ReplyPositions
from milliner.engine import limits, scheduler

from . import running, toys


async def test_durations_sum_to_the_time_in_the_engine_and_padding_counts_as_compute() -> None:
    backend = toys.ToyBackend()
    async with running.serving(backend, cost=compute.ComputeCost(fixed_s=0.02, per_token_s=0.005)) as cloud:
        await cloud.open(toys.session_open())
        start_s = asyncio.get_running_loop().time()
        done = await cloud.forward(toys.frame(tokens=4))
        total_s = asyncio.get_running_loop().time() - start_s
        assert done.compute_s + done.codec_s >= 0.04
        assert done.queue_s + done.compute_s + done.codec_s <= total_s
        assert done.batched_tokens == 4
        report = cloud.load()
        assert report.delay_fixed_s + 4 * report.delay_per_token_s == pytest.approx(
            done.compute_s + done.codec_s, rel=0.2
        )


async def test_frames_of_many_sessions_share_a_batch_with_verification_first() -> None:
    backend = toys.ToyBackend()
    async with running.serving(backend) as cloud:
        for name in "abc":
            await cloud.open(toys.session_open(name))
        gate = running.Gate(backend)
        first = asyncio.create_task(cloud.forward(toys.frame("a", tokens=1)))
        await gate.until_busy()
        rest = [
            asyncio.create_task(
                cloud.forward(toys.frame("b", tokens=12, kind=FrameKind.CHUNK, reply=ReplyPositions.NONE))
            ),
            asyncio.create_task(cloud.forward(toys.frame("c", tokens=3))),
        ]
        await toys.settle()
        assert cloud.load().waiting_frames == 3
        gate.opened.set()
        _, chunk, verified = await asyncio.gather(first, *rest)
        assert backend.batches[1] == [("b", 0, 5), ("c", 0, 3)]  # the chunk has what verification left of 8 tokens
        assert backend.batches[2] == [("b", 5, 7)]
        assert (chunk.payload, chunk.kv_len, chunk.batched_tokens) == (None, 12, 8)
        assert verified.batched_tokens == 8


async def test_chunks_sent_without_waiting_are_computed_in_order_and_together() -> None:
    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
        await cloud.open(toys.session_open())
        chunks = [toys.frame(start=at, tokens=2, round_index=0, kind=FrameKind.CHUNK) for at in (0, 2, 4, 6)]
        tasks = [asyncio.create_task(cloud.forward(chunk)) for chunk in chunks]
        await gate.until_busy()
        gate.opened.set()
        assert [(await task).kv_len for task in tasks] == [2, 4, 6, 8]
        assert backend.batches == [[("a", at, 2) for at in (0, 2, 4, 6)]]


async def test_warm_up_teaches_the_delay_model_before_the_first_frame() -> None:
    backend = toys.ToyBackend(num_pages=64)
    async with running.serving(backend, cost=compute.ComputeCost(fixed_s=0.01, per_token_s=0.001)) as cloud:
        await cloud.warm_up()
        assert max(backend.measured) <= running.CONFIG.max_batch_tokens
        report = cloud.load()
        assert report.delay_fixed_s + 8 * report.delay_per_token_s == pytest.approx(0.018, rel=0.2)


async def test_a_session_that_idled_gets_no_credit_for_it() -> None:
    """Without the floor a newcomer's prompt would hold up everyone who was served before it came."""
    backend = toys.ToyBackend(num_pages=400)
    config = limits.EngineConfig(kv_cache_bytes=0, max_batch_tokens=8, max_frame_tokens=64)
    async with running.serving(backend, config=config) as cloud:
        for name in "abc":
            await cloud.open(toys.session_open(name, max_positions=100))
        for start in (0, 32):
            frame = toys.frame("a", start=start, tokens=32, kind=FrameKind.CHUNK)
            await asyncio.gather(cloud.forward(frame), cloud.forward(toys.frame("b", start=start, tokens=32)))
        gate = running.Gate(backend)
        done_before = len(backend.batches)
        tasks = [
            asyncio.create_task(
                cloud.forward(toys.frame(name, start=64 if name == "a" else 0, tokens=16, kind=FrameKind.CHUNK))
            )
            for name in "ac"
        ]
        await gate.until_busy()
        gate.opened.set()
        await asyncio.gather(*tasks)
        order = [pieces[0][0] for pieces in backend.batches[done_before:]]
        assert order in (["a", "c", "a", "c"], ["c", "a", "c", "a"], ["a", "c", "c", "a"], ["c", "a", "a", "c"])


async def test_another_policy_can_be_plugged_in() -> None:
    class OneAtATime:
        def plan(self, waiting: Sequence[scheduler.Waiting], *, budget_tokens: int) -> list[scheduler.Share]:
            oldest = min(waiting, key=lambda frame: frame.ticket)
            return [scheduler.Share(oldest.ticket, min(oldest.num_tokens, budget_tokens))]

        def rank(self, waiting: Sequence[scheduler.Waiting]) -> list[scheduler.Waiting]:
            return list(waiting)

    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    async with running.serving(backend, policy=OneAtATime()) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        tasks = [asyncio.create_task(cloud.forward(toys.frame(name))) for name in "ab"]
        await gate.until_busy()
        gate.opened.set()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in backend.batches] == [1, 1]
