"""Slots are given back whatever happens, and a client that takes nothing does not keep one."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette import types as asgi

from milliner.api import admission, streaming
from milliner.core import errors
from milliner.telemetry.phases import Phase

from . import conftest as toys


def slots(*, max_running: int = 1, max_waiting: int = 2, max_wait_s: float = 10.0) -> admission.Admission:
    return admission.Admission(
        max_running=max_running, max_waiting=max_waiting, max_wait_s=max_wait_s, clock=toys.LoopClock()
    )


async def test_a_wait_for_a_slot_ends() -> None:
    one = slots(max_wait_s=0.02)
    async with one.slot():
        with pytest.raises(errors.CapacityError, match="within"):
            async with one.slot():
                pass
        assert (one.running, one.waiting) == (1, 0)
    async with one.slot() as waited_s:
        assert waited_s < 0.02
    assert (one.running, one.waiting) == (0, 0)


async def test_one_who_gives_up_waiting_leaves_no_trace() -> None:
    one = slots()

    async def hold() -> None:
        async with one.slot():
            pass

    async with one.slot():
        waiting = asyncio.create_task(hold())
        await toys.until(lambda: one.waiting == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert one.waiting == 0
    async with asyncio.timeout(1):
        await hold()


async def test_the_queue_is_first_come_first_served() -> None:
    one, order = slots(max_waiting=3), []
    ended = asyncio.Event()

    async def take(name: str) -> None:
        async with one.slot():
            order.append(name)
            await ended.wait()

    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(take(name))
            await asyncio.sleep(0)
        with pytest.raises(errors.CapacityError, match="1 requests run and 3 wait"):
            await take("e")
        assert order == ["a"]
        ended.set()
    assert order == ["a", "b", "c", "d"]


async def test_waiting_for_a_slot_is_a_phase_of_the_request(served: toys.Served) -> None:
    served.generator.stall_at_round = 0
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(served.complete())
        await toys.until(lambda: served.generator.open == 2)
        await asyncio.sleep(0.05)
        served.generator.release.set()
    queued = sorted(one.phases_s[Phase.QUEUE] for one in served.summaries)
    assert queued[2] >= 0.04
    assert queued[1] < 0.04


async def test_a_client_that_takes_nothing_is_treated_as_gone(
    served: toys.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "MAX_WRITE_S", 0.05)
    body = json.dumps({"model": "toy", "prompt": "x", "stream": True}).encode()
    never = asyncio.Event()
    requests: list[asgi.Message] = [{"type": "http.request", "body": body}]

    async def receive() -> asgi.Message:
        if requests:
            return requests.pop()
        await never.wait()
        return {"type": "http.disconnect"}

    async def send(message: asgi.Message) -> None:
        if message["type"] == "http.response.body":
            await never.wait()

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": [(b"content-type", b"application/json")],
        "query_string": b"",
    }
    async with asyncio.timeout(10):
        await served.app(scope, receive, send)
    assert (served.generator.open, served.generator.closed) == (0, 1)
    assert served.summaries[0].error_type == "ClientGone"
