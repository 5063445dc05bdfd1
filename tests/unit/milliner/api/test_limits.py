"""Slots are given back whatever happens, and a client that takes nothing does not keep one."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from starlette import types as asgi

from milliner.api import admission, streaming, text_service
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
    async with one.slot() as held:
        assert held.waited_s < 0.02
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


async def test_an_answer_is_a_slot_and_a_large_request_takes_no_more_than_there_are() -> None:
    one = slots(max_running=4)
    async with one.slot(3) as first:
        waiting = asyncio.create_task(one.slot(16).__aenter__())
        await toys.until(lambda: one.waiting == 1)
        assert first.slots == 3
    assert (await waiting).slots == 4
    assert one.running == 1


async def test_choices_beyond_the_slots_wait_for_others_of_their_request(served: toys.Served) -> None:
    served.generator.stall_at_round = 0
    asked = asyncio.create_task(served.complete(n=5))
    await toys.until(lambda: served.generator.open == 2)  # the device has two slots
    await asyncio.sleep(0.03)
    assert served.generator.open == 2
    served.generator.release.set()
    response = await asked
    assert [choice["finish_reason"] for choice in response.json()["choices"]] == ["stop"] * 5
    assert sum(one.phases_s[Phase.QUEUE] >= 0.02 for one in served.summaries) == 3


async def test_a_client_that_leaves_takes_its_waiting_choices_along(served: toys.Served) -> None:
    served.generator.stall_at_round = 0
    asked = asyncio.create_task(served.complete(n=5))
    await toys.until(lambda: served.generator.open == 2)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    served.generator.release.set()
    await toys.until(lambda: served.generator.open == 0)
    assert (await served.complete()).status_code == 200


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


async def test_a_long_text_in_the_tokenizer_holds_up_no_short_one(
    served: toys.Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of one word held the only tokenizer thread for 24 s."""
    monkeypatch.setattr(text_service, "LONG_TEXT_CHARACTERS", 100)
    let_go, encode = threading.Event(), toys.ByteTokenizer.encode

    def slowly(self: toys.ByteTokenizer, text: str, **options: Any) -> list[int]:
        assert len(text) < 100 or let_go.wait(10)
        return encode(self, text, **options)

    monkeypatch.setattr(toys.ByteTokenizer, "encode", slowly)
    long = asyncio.create_task(served.complete(prompt="x" * 200))
    await asyncio.sleep(0.05)
    try:
        async with asyncio.timeout(5):
            assert (await served.complete(prompt="short")).status_code == 200
    finally:
        let_go.set()
    assert (await long).status_code == 200
