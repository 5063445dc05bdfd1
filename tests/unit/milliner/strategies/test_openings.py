"""The line for room in the cloud, in virtual time: order, patience, back-off, and nobody left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from milliner.bench.modelled import virtual_time
from milliner.core import errors
from milliner.strategies import openings

CLOCK = virtual_time.VirtualClock()


class Cloud:
    """Has `free` units of room; an opening that needs more is refused."""

    def __init__(self, free: int, *, hint_s: float = 1.0) -> None:
        self.free = free
        self.hint_s = hint_s
        self.attempts: list[tuple[str, float]] = []
        self.admitted: list[str] = []

    def opening(self, name: str, needed: int = 1) -> Callable[[], asyncio.Future[None]]:
        async def attempt() -> None:
            self.attempts.append((name, CLOCK.now()))
            await asyncio.sleep(0.01)
            if needed > self.free:
                raise errors.TooManySessions("full", retry_after_s=self.hint_s)
            self.free -= needed
            self.admitted.append(name)

        return lambda: asyncio.ensure_future(attempt())


def test_a_large_session_is_not_overtaken_by_a_steady_flow_of_small_ones() -> None:
    async def scenario() -> list[str]:
        cloud, line = Cloud(0), openings.Openings()

        async def small(index: int) -> None:
            await asyncio.sleep(0.1 * (index + 1))
            await line.open(cloud.opening(f"small {index}"), clock=CLOCK)
            await asyncio.sleep(0.5)
            cloud.free += 1
            line.freed()

        async def room() -> None:
            for _ in range(3):
                await asyncio.sleep(1.0)
                cloud.free += 1
                line.freed()

        async with asyncio.TaskGroup() as group:
            group.create_task(small(0))
            group.create_task(line.open(cloud.opening("large", 3), clock=CLOCK))
            for index in range(1, 30):
                group.create_task(small(index))
            group.create_task(room())
            async with asyncio.timeout(20):
                while "large" not in cloud.admitted:
                    await asyncio.sleep(0.1)
            cloud.free += 3
        assert not line.crowded
        return cloud.admitted

    assert virtual_time.run(scenario())[0] == "large"


def test_attempts_back_off_and_end_when_the_wait_is_over() -> None:
    async def scenario() -> None:
        cloud, line = Cloud(0, hint_s=5.0), openings.Openings(max_wait_s=10.0)
        waits = [asyncio.ensure_future(line.open(cloud.opening(str(i)), clock=CLOCK)) for i in range(2)]
        with pytest.raises(errors.TooManySessions):
            await waits[0]
        assert CLOCK.now() == pytest.approx(10.0, abs=0.1)
        with pytest.raises(errors.CapacityError):
            await waits[1]
        assert CLOCK.now() == pytest.approx(10.0, abs=0.2)
        assert 8 < len([name for name, _ in cloud.attempts if name == "0"]) < 20
        assert not line.crowded

    virtual_time.run(scenario())


def test_room_that_this_device_leaves_is_taken_at_once_and_one_who_leaves_the_line_holds_up_nobody() -> None:
    async def scenario() -> None:
        cloud, line = Cloud(0, hint_s=60.0), openings.Openings()
        leaving = asyncio.ensure_future(line.open(cloud.opening("leaving"), clock=CLOCK))
        staying = asyncio.ensure_future(line.open(cloud.opening("staying"), clock=CLOCK))
        await asyncio.sleep(6.3)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        cloud.free = 1
        line.freed()
        before_s = CLOCK.now()
        await staying
        assert CLOCK.now() - before_s < 0.1
        assert cloud.admitted == ["staying"]

    virtual_time.run(scenario())


def test_what_is_no_lack_of_room_is_raised_at_once() -> None:
    async def scenario() -> None:
        line = openings.Openings()

        async def gone() -> None:
            raise errors.UnavailableError("gone")

        with pytest.raises(errors.UnavailableError):
            await line.open(gone, clock=CLOCK)
        assert CLOCK.now() == 0.0
        assert not line.crowded

    virtual_time.run(scenario())
