"""Answers of one request: who is refused room waits while others of the request have it or may still get it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable

import pytest
from tests.system import split_topology

from milliner.api import turn_taking
from milliner.core import errors


async def attempt(turns: turn_taking.Turns, *, refusals: list[bool], begun: asyncio.Event, log: list[str]) -> None:
    """An answer: refused as often as `refusals` says, else begins once `begun` is set; comes again as the API does."""
    record = split_topology.new_record(1)
    while True:
        async with turns.turn(record) as turn:
            if refusals and refusals.pop():
                await asyncio.sleep(0)
                if not turn.may_come_again:
                    raise errors.CapacityError("no room")
                log.append("refused")
                continue
            await begun.wait()
            turn.admitted()
            log.append("answered")
            return


async def all_of(tries: Iterable[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in tries:
            group.create_task(each)


async def test_one_that_is_refused_before_the_first_token_of_another_waits_for_it() -> None:
    """A slow prefill of the one that has the room: the others' wait for it may be over before its first token."""
    turns, begun, log = turn_taking.Turns(3), asyncio.Event(), list[str]()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(attempt(turns, refusals=[], begun=begun, log=log))
        for _ in range(2):
            group.create_task(attempt(turns, refusals=[True], begun=begun, log=log))
        while log != ["refused", "refused"]:
            await asyncio.sleep(0)
        begun.set()
    assert log == ["refused"] * 2 + ["answered"] * 3
    assert (turns.trying, turns.admitted, turns.ended) == (0, 0, 3)


async def test_where_nobody_finds_room_the_request_is_refused() -> None:
    turns, never = turn_taking.Turns(3), asyncio.Event()
    tries = [attempt(turns, refusals=[True] * 9, begun=never, log=[]) for _ in range(3)]
    with pytest.raises(ExceptionGroup) as refused:
        await asyncio.wait_for(all_of(tries), timeout=5)
    assert refused.group_contains(errors.CapacityError)
    assert turns.trying == 0
