"""The work queue: one pass for a storm, again after a change in mid-pass, backoff, and a worker for every key."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from milliner_operator import errors, queue
from milliner_operator.queue import Key

ONE, OTHER = ("default", "one"), ("default", "other")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules, a hundred times as fast."""
    monkeypatch.setattr(queue, "_SPACING_S", 0.01)
    monkeypatch.setattr(queue, "_BACKOFF_S", (0.02, 0.04))


@contextlib.asynccontextmanager
async def running(work: queue.WorkQueue) -> AsyncIterator[None]:
    task = asyncio.create_task(work.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(5):
        await condition.wait()


async def test_a_storm_costs_one_pass() -> None:
    passes: list[Key] = []
    done = asyncio.Event()

    async def handle(key: Key) -> float | None:
        passes.append(key)
        done.set()
        return 60.0

    work = queue.WorkQueue(handle)
    for _ in range(100):
        work.add(ONE)
    async with running(work):
        await until(done)
        await asyncio.sleep(0.05)
    assert passes == [ONE]


async def test_a_change_in_mid_pass_brings_another_pass_and_never_two_at_once() -> None:
    active, most, passes = 0, 0, 0
    second = asyncio.Event()

    async def handle(key: Key) -> float | None:
        nonlocal active, most, passes
        active += 1
        passes += 1
        most = max(most, active)
        if passes == 1:
            work.add(key)
            await asyncio.sleep(0.03)
        else:
            second.set()
        active -= 1
        return None

    work = queue.WorkQueue(handle)
    work.add(ONE)
    async with running(work):
        await until(second)
        await asyncio.sleep(0.03)
        assert len(work) == 0
    assert (passes, most) == (2, 1)


async def test_failures_are_tried_again_and_stop_no_other_key(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[Key] = []
    done = asyncio.Event()

    async def handle(key: Key) -> float | None:
        tries.append(key)
        if key == ONE and tries.count(ONE) < 3:
            raise errors.Unreachable(0, "no answer")
        if key == ONE:
            done.set()
        return None

    work = queue.WorkQueue(handle, workers=1)
    work.add(ONE)
    work.add(OTHER)
    async with running(work):
        await until(done)
    assert tries.count(OTHER) == 1
    assert caplog.text.count("default/one: no answer") == 2
    assert "Traceback" not in caplog.text


async def test_passes_that_wait_for_other_clusters_hold_up_only_one_another_and_no_heartbeat() -> None:
    """The dispatcher waited five seconds for a worker, for each key: with dead clusters it missed its own beat."""
    now, stuck, done = 0.0, asyncio.Event(), asyncio.Event()
    far = [("default", f"far-{index}") for index in range(20)]

    async def handle(key: Key) -> float | None:
        if key == ONE:
            done.set()
        else:
            await stuck.wait()
        return None

    work = queue.WorkQueue(handle, workers=2, is_slow=lambda key: key in far, now=lambda: now)
    for key in far:
        work.add(key)
    async with running(work):
        await asyncio.sleep(0.03)
        work.add(ONE)
        await until(done)
        now = 1000.0
        work.add(OTHER)
        await asyncio.sleep(0.03)
        assert work.is_alive()
        stuck.set()
        await asyncio.sleep(0.05)
        assert len(work) == 0, "an end makes room for the next"


async def test_a_namespace_that_is_gone_is_forgotten() -> None:
    work = queue.WorkQueue(lambda key: asyncio.sleep(0, None))
    work.add(ONE)
    work.add(("elsewhere", "one"))
    work.forget("default")
    assert len(work) == 1


async def test_liveness_follows_the_dispatcher() -> None:
    now = 0.0
    seen = asyncio.Event()

    async def handle(key: Key) -> float | None:
        seen.set()
        return None

    work = queue.WorkQueue(handle, now=lambda: now)
    assert not work.is_alive()
    work.add(ONE)
    async with running(work):
        await until(seen)
        assert work.is_alive()
    now = 1000.0
    assert not work.is_alive()
