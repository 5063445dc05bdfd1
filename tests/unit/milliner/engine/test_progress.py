"""When an accelerator counts as hung, and what its engine does about it."""

from __future__ import annotations

import asyncio

import pytest

from milliner.core import errors
from milliner.engine import progress

from . import running, toys


def test_a_batch_may_take_a_multiple_of_what_the_delay_model_expects() -> None:
    watched = progress.Progress()
    for expected_s, limit_s in ((0.0, progress.OVERDUE_MIN_S), (0.02, progress.OVERDUE_MIN_S), (6.0, 60.0)):
        watched.started(expected_s, now_s=100.0)
        for now_s in (100.0 + limit_s - 1.0, 100.0 + limit_s, 100.0 + limit_s + 1.0):
            watched.look(now_s=now_s)
            assert watched.hung == ""
        watched.look(now_s=100.0 + limit_s + 2.0)
        assert f"not finished a batch in {limit_s + 2.0:.0f} s" in watched.hung
        watched.ended()
        assert watched.hung == ""


def test_a_process_that_stood_still_itself_first_hears_of_what_was_finished() -> None:
    watched = progress.Progress()
    watched.started(0.02, now_s=0.0)
    watched.look(now_s=1000.0)
    assert watched.hung == ""
    watched.ended()
    watched.started(0.02, now_s=1000.0)
    watched.look(now_s=1001.0)
    assert watched.hung == ""


def test_without_a_batch_nothing_hangs() -> None:
    watched = progress.Progress()
    for now_s in range(0, 1000, 10):
        watched.look(now_s=now_s)
    assert watched.hung == ""


async def test_sessions_of_a_hung_accelerator_end_and_new_ones_come_when_it_is_well_again() -> None:
    backend, clock = toys.ToyBackend(), toys.ManualClock()
    gate = running.Gate(backend)
    async with running.serving(backend, clock=clock) as cloud:
        await cloud.open(toys.session_open("running"))
        await cloud.open(toys.session_open("idle"))
        waiting = asyncio.create_task(cloud.forward(toys.frame("running", tokens=3)))
        await gate.until_busy()
        await clock.advance(progress.OVERDUE_MIN_S)
        assert cloud.hung == "" and not waiting.done()

        await clock.advance(3 * progress.LOOK_EVERY_S)
        assert "the accelerator has not finished a batch" in cloud.hung
        with pytest.raises(errors.UnavailableError, match="has not finished a batch"):
            await waiting
        with pytest.raises(errors.UnknownSession):
            await cloud.forward(toys.frame("idle"))
        with pytest.raises(errors.UnavailableError, match="has not finished a batch"):
            await cloud.open(toys.session_open("new"))
        assert cloud.load().kv_used_share == 0.0

        gate.opened.set()
        async with asyncio.timeout(10):
            while cloud.hung:
                await asyncio.sleep(0.001)
        await cloud.open(toys.session_open("new"))
        assert running.values(await cloud.forward(toys.frame("new", tokens=2))) == "[0.0, 1.0]"
        assert backend.released == 1
        await clock.advance(10 * progress.OVERDUE_MIN_S)
        assert cloud.hung == ""
