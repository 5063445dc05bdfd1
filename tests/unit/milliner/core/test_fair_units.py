"""Units are given out in the order of asking, and never lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from milliner.core import fair_units


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_large_wish_is_not_overtaken_by_small_ones() -> None:
    units, order = fair_units.FairUnits(4), list[str]()

    async def take(name: str, count: int) -> None:
        await units.acquire(count)
        order.append(name)

    await units.acquire(2)
    async with asyncio.TaskGroup() as group:
        for name, count in (("large", 4), ("small", 1)):
            group.create_task(take(name, count))
            await settle()
        assert order == []
        assert units.num_waiting == 2
        units.release(2)
        await settle()
        assert order == ["large"]
        units.release(4)
    assert order == ["large", "small"]


async def test_those_behind_one_who_gives_up_are_served() -> None:
    units = fair_units.FairUnits(3)
    await units.acquire(2)
    large, small = asyncio.create_task(units.acquire(3)), asyncio.create_task(units.acquire(1))
    await settle()
    large.cancel()
    async with asyncio.timeout(1):
        await small
    with pytest.raises(asyncio.CancelledError):
        await large
    assert (units.free, units.num_waiting) == (0, 0)


async def test_units_granted_at_the_moment_of_giving_up_go_back() -> None:
    units = fair_units.FairUnits(1)
    await units.acquire(1)
    waiting = asyncio.create_task(units.acquire(1))
    await settle()
    units.release(1)  # grants them to `waiting`, which has not run since
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert units.free == 1


@pytest.mark.parametrize("seed", range(5))
async def test_no_unit_is_lost_whatever_is_cancelled(seed: int) -> None:
    draw, units = random.Random(seed), fair_units.FairUnits(7)

    async def hold() -> None:
        count = draw.randint(1, 7)
        await units.acquire(count)
        try:
            await asyncio.sleep(draw.random() / 100)
        finally:
            units.release(count)

    tasks = [asyncio.create_task(hold()) for _ in range(60)]
    for task in tasks:
        if draw.random() < 0.4:
            await asyncio.sleep(0)
            task.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (units.free, units.num_waiting) == (7, 0)
