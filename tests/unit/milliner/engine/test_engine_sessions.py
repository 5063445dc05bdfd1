"""Sessions over a toy backend: opening, refusals, closing, expiry, stopping."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from milliner.core import clock as clocks
from milliner.core import errors
from milliner.engine import engine, executor

from . import running, toys


async def test_closing_a_session_under_way_fails_its_frames_and_frees_its_pages_at_once() -> None:
    backend = toys.ToyBackend(num_pages=4)
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
        await cloud.open(toys.session_open(max_positions=16))
        task = asyncio.create_task(cloud.forward(toys.frame(tokens=3)))
        await gate.until_busy()
        await cloud.close("a")
        await cloud.close("a")
        with pytest.raises(errors.UnknownSession):
            await task
        assert cloud.load().kv_used_share == 0.0
        gate.opened.set()
        await cloud.open(toys.session_open("b", max_positions=16))
        assert running.values(await cloud.forward(toys.frame("b", tokens=1))) == "[0.0]"
        assert backend.released == 1


async def test_sessions_that_come_and_go_without_a_frame_leave_nothing_to_free() -> None:
    backend = toys.ToyBackend()
    async with running.serving(backend) as cloud:
        for _ in range(50):
            await cloud.open(toys.session_open("a"))
            await cloud.close("a")
        await cloud.open(toys.session_open("b"))
        await cloud.forward(toys.frame("b"))
        assert backend.released == 0


async def test_opening_is_refused_with_the_reason() -> None:
    backend = toys.ToyBackend(num_pages=8, page_tokens=4)
    async with running.serving(backend) as cloud:
        opened = await cloud.open(toys.session_open("a", max_positions=20))
        assert (opened.max_frame_tokens, opened.max_positions) == (24, 32)
        assert opened.load.kv_used_share == pytest.approx(5 / 8)
        for session_id, positions, expected in (
            ("a", 4, errors.ForeignSession),
            ("", 4, errors.UnknownSession),
            ("b", 13, errors.KVCacheFull),
            ("b", 33, errors.PromptTooLong),
        ):
            with pytest.raises(expected):
                await cloud.open(toys.session_open(session_id, max_positions=positions))
        for session_id in "bcd":
            await cloud.open(toys.session_open(session_id, max_positions=4))
        with pytest.raises(errors.TooManySessions):
            await cloud.open(toys.session_open("e", max_positions=1))
        await cloud.close("a")
        await cloud.open(toys.session_open("e", max_positions=20))


async def test_sessions_expire_when_idle_and_only_then() -> None:
    clock = toys.ManualClock()
    backend = toys.ToyBackend()
    async with running.serving(backend, clock=clock) as cloud:
        await toys.settle()
        for name in "ab":
            await cloud.open(toys.session_open(name))
        await clock.advance(90)
        await cloud.forward(toys.frame("a"))
        await clock.advance(40)
        assert cloud.load().running_sessions == 1
        with pytest.raises(errors.UnknownSession, match="expired"):
            await cloud.forward(toys.frame("b"))
        assert (await cloud.forward(toys.frame("a", start=1))).kv_len == 2
        await clock.advance(130)
        assert (cloud.load().running_sessions, cloud.load().kv_used_share) == (0, 0.0)


async def test_a_frame_that_waits_long_does_not_expire_its_session() -> None:
    clock = toys.ManualClock()
    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    config = dataclasses.replace(
        running.CONFIG, session_idle_s=2.0
    )  # less than what makes an accelerator count as hung
    async with running.serving(backend, clock=clock, config=config) as cloud:
        await cloud.open(toys.session_open())
        task = asyncio.create_task(cloud.forward(toys.frame()))
        await gate.until_busy()
        await clock.advance(18)
        gate.opened.set()
        done = await task
        assert done.kv_len == 1
        assert done.queue_s == pytest.approx(18, abs=5)


async def test_stopping_fails_what_waits_and_refuses_new_sessions() -> None:
    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        under_way = asyncio.create_task(cloud.forward(toys.frame("a")))
        await gate.until_busy()
        waiting = asyncio.create_task(cloud.forward(toys.frame("b")))
        await toys.settle()
        stopping = asyncio.create_task(cloud.stop())
        await toys.settle()
        gate.opened.set()
        await stopping
        assert (await under_way).kv_len == 1
        with pytest.raises(errors.UnavailableError):
            await waiting
        with pytest.raises(errors.UnavailableError):
            await cloud.open(toys.session_open("c"))


async def test_stopping_an_engine_that_never_ran_returns() -> None:
    worker = executor.ComputeExecutor(name="test")
    cloud = engine.Engine(toys.ToyBackend(), config=running.CONFIG, executor=worker, clock=clocks.LoopClock())
    await asyncio.wait_for(cloud.stop(), 1)
    worker.close()
