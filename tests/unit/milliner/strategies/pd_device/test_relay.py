"""Tokens of two tiers become one answer: in order, none twice, none lost."""

from __future__ import annotations

import asyncio

import pytest

from milliner.core import clock, errors, types
from milliner.strategies.pd_device import relay

CLOUD, DEVICE = types.TokenOrigin.CLOUD, types.TokenOrigin.DEVICE


def token(token_id: int, origin: types.TokenOrigin = CLOUD) -> types.EmittedToken:
    return types.EmittedToken(token_id, origin)


def test_the_clouds_tokens_count_until_the_device_takes_over() -> None:
    known = relay.Relay()
    for index in range(3):
        known.put_cloud(index, token(10 + index))
    assert known.take_over() == 3
    known.put_cloud(3, token(99))
    known.put_device(token(13, DEVICE))
    known.put_cloud(4, token(98))
    assert known.ids_from(0) == [10, 11, 12, 13]
    assert known.ids_from(2) == [12, 13]


def test_repeated_and_early_tokens_change_nothing() -> None:
    known = relay.Relay()
    known.put_cloud(1, token(7))
    known.put_cloud(0, token(5))
    known.put_cloud(0, token(6))
    assert known.ids_from(0) == [5]


async def test_who_waits_for_a_token_gets_it_when_it_comes() -> None:
    known = relay.Relay()
    waiting = asyncio.create_task(known.known(1))
    await asyncio.sleep(0)
    known.put_cloud(0, token(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    known.put_cloud(1, token(2))
    assert (await waiting).token_id == 2


async def test_a_failure_comes_after_what_is_known() -> None:
    known = relay.Relay()
    known.put_cloud(0, token(1))
    known.fail(errors.KVCacheFull("no room"))
    assert (await known.known(0)).token_id == 1
    with pytest.raises(errors.KVCacheFull):
        await known.known(1)


async def test_news_end_a_wait_early() -> None:
    known, time = relay.Relay(), clock.LoopClock()
    asyncio.get_running_loop().call_later(0.01, known.end_cloud)
    start_s = time.now()
    await known.news(within_s=30.0, clock=time)
    assert time.now() - start_s < 5.0
    await known.news(within_s=0.01, clock=time)


async def test_one_waiter_does_not_take_the_news_from_another() -> None:
    known, time = relay.Relay(), clock.LoopClock()

    async def cloud() -> None:
        known.put_cloud(0, token(1))

    # one turn of the loop each: the first is about to wait, the token comes, the second begins to wait for the next one
    first = asyncio.create_task(known.news(within_s=30.0, clock=time))
    giving = asyncio.create_task(cloud())
    second = asyncio.create_task(known.news(within_s=30.0, clock=time))
    async with asyncio.timeout(10):
        await asyncio.gather(first, giving)
    assert not second.done()
    known.end_cloud()
    await second


async def test_nothing_follows_a_failure() -> None:
    known = relay.Relay()
    known.put_cloud(0, token(1))
    known.fail(errors.UnavailableError("the cloud is lost"))
    known.take_over()
    known.put_device(token(2, DEVICE))
    with pytest.raises(errors.UnavailableError):
        await known.known(1)
