"""Promises of a device's KV pages."""

from __future__ import annotations

import asyncio

import pytest

from milliner.core import errors
from milliner.engine.device import room


def new_room(*, max_sessions: int = 2, max_wait_s: float = 5.0) -> room.Room:
    return room.Room(max_positions=1000, max_sessions=max_sessions, max_wait_s=max_wait_s)


async def test_full_contexts_fit_as_often_as_was_said_and_short_ones_more_often() -> None:
    one = new_room(max_wait_s=0.01)
    taken = [await one.take(1000) for _ in range(2)]
    taken.append(await one.take(room.SHORT_POSITIONS))  # a probe does not wait for clients
    with pytest.raises(errors.KVCacheFull) as refusal:
        await one.take(1)
    assert refusal.value.retry_after_s == 0.01
    for pages in taken:
        one.give_back(pages)
    for _ in range(3):
        await one.take(60)


async def test_a_session_waits_until_another_ends() -> None:
    one = new_room(max_sessions=1)
    first = await one.take(900)
    waiting = asyncio.create_task(one.take(900))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    one.give_back(first)
    assert await waiting == first


async def test_what_gives_up_waiting_takes_nothing() -> None:
    one = new_room(max_sessions=1, max_wait_s=0.01)
    pages = await one.take(1000)
    with pytest.raises(errors.KVCacheFull):
        await one.take(1000)
    one.give_back(pages)
    assert one.free_pages == one.num_pages


async def test_more_than_the_context_is_no_reason_to_wait() -> None:
    with pytest.raises(errors.PromptTooLong) as refusal:
        await new_room().take(1001)
    assert refusal.value.field == "max_tokens"
