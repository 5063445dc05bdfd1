"""Opening without waiting for the cloud's answer: frames travel right behind, refusals arrive all the same."""

from __future__ import annotations

import asyncio

import pytest
from tests.wire import conftest, toy_cloud

from milliner.core import errors


async def test_frames_travel_behind_the_opening(pair: conftest.Pair) -> None:
    first = await pair.transport.open(toy_cloud.session_open("first"), eager=True)
    assert first.opened.session_id == "first"  # nothing is known of a new replica: it is waited for
    pair.cloud.open_gate.clear()
    async with asyncio.timeout(5):
        stream = await pair.transport.open(toy_cloud.session_open("second"), eager=True)
        await stream.send(toy_cloud.frame(session_id="second", num_tokens=3))
    assert pair.cloud.opened == ["first"]
    pair.cloud.open_gate.set()
    assert (await stream.receive()).kv_len == 3
    assert stream.opened.session_id == "second"
    await stream.close()
    await first.close()


async def test_a_refusal_comes_with_the_first_reply_as_the_same_error(pair: conftest.Pair) -> None:
    await (await pair.transport.open(toy_cloud.session_open("first"))).close()
    pair.cloud.refuse_open = errors.KVCacheFull("the KV cache is full", field="max_positions", retry_after_s=3.0)
    stream = await pair.transport.open(toy_cloud.session_open("second"), eager=True)
    await stream.send(toy_cloud.frame(session_id="second"))  # the refusal is still on its way
    with pytest.raises(errors.KVCacheFull) as refused:
        await stream.receive()
    assert refused.value.retry_after_s == 3.0
    with pytest.raises(errors.KVCacheFull):
        await stream.receive()
    await stream.close()


async def test_without_eager_a_refusal_comes_at_once(pair: conftest.Pair) -> None:
    await (await pair.transport.open(toy_cloud.session_open("first"))).close()
    pair.cloud.refuse_open = errors.TooManySessions("full", field="sessions")
    with pytest.raises(errors.TooManySessions):
        await pair.transport.open(toy_cloud.session_open("second"))
