"""Two coroutines side by side: results, the error that counts, no leftovers; waiting for an event with a limit."""

from __future__ import annotations

import asyncio

import pytest

from milliner.core import clock, errors, tasks


async def give(value: int, *, after_s: float = 0.0) -> int:
    await asyncio.sleep(after_s)
    return value


async def fail(error: BaseException, *, after_s: float = 0.0) -> int:
    await asyncio.sleep(after_s)
    raise error


async def test_both_results_come_back_in_order() -> None:
    assert await tasks.both(give(1, after_s=0.01), give(2)) == (1, 2)


async def test_the_failure_itself_is_raised_and_the_other_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    with pytest.raises(errors.UnavailableError, match="gone"):
        await tasks.both(wait(), fail(errors.UnavailableError("gone")))
    assert cancelled.is_set()


async def test_an_expected_error_wins_over_a_bug_that_it_dragged_along() -> None:
    async def drag() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise RuntimeError("in the clean-up") from None

    with pytest.raises(errors.UnavailableError):
        await tasks.both(drag(), fail(errors.UnavailableError("gone"), after_s=0.01))


async def test_cancelling_cancels_both() -> None:
    task = asyncio.create_task(tasks.both(give(1, after_s=60), give(2, after_s=60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [other for other in asyncio.all_tasks() if other is not asyncio.current_task()] == []


async def test_waiting_for_an_event_ends_with_it_or_at_its_limit() -> None:
    event = asyncio.Event()
    assert not await tasks.set_within(event, 0.01, clock=clock.LoopClock())
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await tasks.set_within(event, 60.0, clock=clock.LoopClock())
    assert await tasks.set_within(event, -1.0, clock=clock.LoopClock()), "set already; a limit that is past is none"
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
