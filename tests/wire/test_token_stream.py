"""A stream of tokens over real gRPC: what goes through, in which order, what limits and cancelling do."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.wire import conftest, toy_cloud, toy_tokens

from milliner.core import errors, generation, types
from milliner.wire import client, messages, server, token_messages, token_server


@pytest.fixture
async def pair() -> AsyncIterator[conftest.TokenPair]:
    async with conftest.token_pair(toy_tokens.ToyTokens()) as both:
        yield both


async def test_request_and_tokens_arrive_as_they_were_sent(pair: conftest.TokenPair) -> None:
    sampler = generation.Sampler(
        types.SamplingParams(temperature=0.5, top_p=0.9, top_k=3), seed=2**62 + 1, num_logprobs=2
    )
    request = dataclasses.replace(
        toy_tokens.token_open(max_tokens=3),
        sampler=sampler,
        tokenizer_digest="sha256:aa",
        stop_token_ids=frozenset({1, 2}),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        claim="c",
        salt="tenant",
        keep_share=0.75,
        keep_spans=((0, 1),),
    )
    pair.cloud.kept = ((0, 1), (2, 3))
    stream = await pair.transport.open(request)
    assert stream.opened == generation.GenerationOpened(
        "s1", toy_tokens.DIGEST, types.LoadReport(), max_positions=toy_tokens.MAX_POSITIONS
    )
    received = [await stream.receive() for _ in range(3)]
    assert received == [
        generation.CloudToken(
            index, toy_tokens.step(100 + index), last=index == 2, kept=((0, 1), (2, 3)) if index == 0 else None
        )
        for index in range(3)
    ]
    assert pair.cloud.requests == {"s1": request}
    assert pair.transport.max_positions == toy_tokens.MAX_POSITIONS
    await stream.close()


async def test_more_of_the_likeliest_than_any_vocabulary_has_is_all_of_them(pair: conftest.TokenPair) -> None:
    sampler = generation.Sampler(types.SamplingParams(temperature=1.0, top_k=2**40), seed=0)
    stream = await pair.transport.open(dataclasses.replace(toy_tokens.token_open(max_tokens=1), sampler=sampler))
    assert pair.cloud.requests["s1"].sampler.params.top_k == 2**32 - 1
    await stream.close()


async def test_after_the_last_token_the_session_is_freed_and_nothing_more_comes(pair: conftest.TokenPair) -> None:
    stream = await pair.transport.open(toy_tokens.token_open())
    assert await toy_tokens.the_rest(stream) == [100, 101, 102, 103, 104]
    for _ in range(2):
        with pytest.raises(errors.ProtocolError, match="5 tokens and no more"):
            await stream.receive()
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    assert pair.server.open_sessions == 0
    await stream.set_limit(10)  # too late: changes nothing
    assert pair.cloud.limits == {"s1": 5}
    await stream.close()


async def test_tokens_wait_for_a_device_that_is_busy(pair: conftest.TokenPair) -> None:
    """The cloud had given the last and ended the stream before the first was received."""
    stream = await pair.transport.open(toy_tokens.token_open(max_tokens=300))
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    assert await toy_tokens.the_rest(stream) == list(range(100, 400))
    await stream.close()


async def test_a_prompt_of_a_hundred_thousand_tokens_passes(pair: conftest.TokenPair) -> None:
    prompt = tuple(range(30_000, 130_000))
    stream = await pair.transport.open(toy_tokens.token_open(prompt=prompt, max_tokens=2))
    assert await toy_tokens.the_rest(stream) == [30_000, 30_001]
    assert pair.cloud.requests["s1"].prompt_ids == prompt
    assert 100_000 < stream.bytes_sent < 400_000
    await stream.close()


async def test_a_prompt_that_no_message_carries_is_refused_before_any_replica_is_asked(
    pair: conftest.TokenPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_messages, "MAX_PROMPT_TOKENS", 10)
    with pytest.raises(errors.PromptTooLong, match="11 tokens in one prompt, at most 10") as refused:
        await pair.transport.open(toy_tokens.token_open(prompt=(1,) * 11))
    assert refused.value.field == "prompt_ids"
    assert pair.cloud.requests == {}


async def test_fewer_is_stop_and_more_is_extend_while_it_runs(pair: conftest.TokenPair) -> None:
    pair.cloud.step_s = 0.01
    longer = await pair.transport.open(toy_tokens.token_open("longer", max_tokens=5))
    shorter = await pair.transport.open(toy_tokens.token_open("shorter", max_tokens=10_000))
    await longer.set_limit(8)
    await shorter.receive()
    await shorter.set_limit(30)
    assert await toy_tokens.the_rest(longer) == list(range(100, 108))
    assert await toy_tokens.the_rest(shorter) == list(range(101, 130))
    await conftest.eventually(lambda: sorted(pair.cloud.closed) == ["longer", "shorter"])
    await longer.close()
    await shorter.close()


async def test_a_stop_below_what_was_given_ends_the_stream_behind_it(pair: conftest.TokenPair) -> None:
    pair.cloud.step_s = 0.005
    pair.cloud.names_last = False
    stream = await pair.transport.open(toy_tokens.token_open(max_tokens=10_000))
    received = [await stream.receive() for _ in range(3)]
    await stream.set_limit(0)
    with pytest.raises(errors.ProtocolError, match="tokens and no more"):
        await toy_tokens.follow(stream, received)
    assert [token.index for token in received] == list(range(len(received)))
    assert not any(token.last for token in received)
    assert len(received) < 1000
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    await stream.close()


async def test_an_extension_beyond_any_session_is_not_sent(pair: conftest.TokenPair) -> None:
    pair.cloud.gate.clear()
    stream = await pair.transport.open(toy_tokens.token_open())
    sent = stream.bytes_sent
    await stream.set_limit(toy_tokens.MAX_POSITIONS - 2)
    assert stream.bytes_sent == sent
    await stream.set_limit(toy_tokens.MAX_POSITIONS - 3)
    await conftest.eventually(lambda: pair.cloud.limits["s1"] == toy_tokens.MAX_POSITIONS - 3)
    await stream.close()


async def test_cancelling_a_receive_loses_no_token(pair: conftest.TokenPair) -> None:
    pair.cloud.gate.clear()
    stream = await pair.transport.open(toy_tokens.token_open())
    for _ in range(3):
        waiting = asyncio.create_task(stream.receive())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    pair.cloud.gate.set()
    assert await toy_tokens.the_rest(stream) == [100, 101, 102, 103, 104]
    await stream.close()


async def test_closing_ends_generating_and_may_be_repeated(pair: conftest.TokenPair) -> None:
    pair.cloud.gate.clear()
    stream = await pair.transport.open(toy_tokens.token_open())
    waiting = asyncio.create_task(stream.receive())
    await conftest.eventually(lambda: pair.cloud.given == {"s1": 1})
    await stream.close()
    await stream.close()
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    assert pair.cloud.ended == ["s1"]
    assert pair.server.open_sessions == 0
    for use in (waiting, stream.receive(), stream.set_limit(3)):
        with pytest.raises(errors.UnavailableError, match="closed on this side"):
            await use


async def test_a_session_is_freed_though_the_device_leaves_while_it_ends() -> None:
    """The cancelled RPC cut the service's close off in the middle: its memory was never freed."""
    cloud = toy_tokens.ToyTokens()
    cloud.close_s = 0.2
    async with conftest.token_pair(cloud) as pair:
        stream = await pair.transport.open(toy_tokens.token_open())
        await toy_tokens.the_rest(stream)
        await conftest.eventually(lambda: cloud.ended == ["s1"])
        await asyncio.sleep(0.05)  # the service is closing the session
        assert cloud.closed == []
        await stream.close()
        await conftest.eventually(lambda: cloud.closed == ["s1"])


async def test_two_devices_and_two_sessions_of_each_do_not_mix(pair: conftest.TokenPair) -> None:
    async with client.GrpcTokenTransport([f"127.0.0.1:{pair.server.port}"], timeouts=conftest.TIMEOUTS) as other_device:

        async def answer(transport: client.GrpcTokenTransport, first: int) -> list[int]:
            stream = await transport.open(toy_tokens.token_open(f"s{first}", prompt=(first,), max_tokens=50))
            try:
                return await toy_tokens.the_rest(stream)
            finally:
                await stream.close()

        firsts = [1000, 2000, 3000, 4000]
        transports = [pair.transport, other_device] * 2
        answers = await asyncio.gather(*map(answer, transports, firsts))
    assert answers == [list(range(first, first + 50)) for first in firsts]


async def test_one_server_serves_both_services_with_a_health_of_each() -> None:
    hidden, tokens = toy_cloud.ToyCloud(), toy_tokens.ToyTokens()
    async with await server.serve(hidden, tokens=tokens) as running:
        target = f"127.0.0.1:{running.port}"
        async with (
            client.GrpcTransport([target], timeouts=conftest.TIMEOUTS) as states,
            client.GrpcTokenTransport([target], timeouts=conftest.TIMEOUTS) as answers,
        ):
            state_stream = await states.open(toy_cloud.session_open("s1"))
            token_stream = await answers.open(toy_tokens.token_open("t1", max_tokens=1))
            await state_stream.send(toy_cloud.frame())
            assert (await state_stream.receive()).kv_len == 1
            assert await toy_tokens.the_rest(token_stream) == [100]
            await state_stream.close()
            await token_stream.close()
        async with grpc.aio.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in (messages.SERVICE, token_messages.SERVICE):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_cloud_without_tokens_is_named() -> None:
    async with (
        await server.serve(toy_cloud.ToyCloud()) as running,
        client.GrpcTokenTransport([f"127.0.0.1:{running.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        with pytest.raises(errors.VersionMismatch, match="speaks no token protocol"):
            await transport.open(toy_tokens.token_open())
        assert await transport.why_unreachable() != ""


async def test_an_idle_session_ends_with_a_named_error() -> None:
    cloud = toy_tokens.ToyTokens()
    cloud.gate.clear()
    limits = token_server.TokenLimits(idle_s=0.2)
    async with conftest.token_pair(cloud, limits=limits) as pair:
        stream = await pair.transport.open(toy_tokens.token_open())
        started_s = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded, match=r"no token for 0\.2 s"):
            await stream.receive()
        assert time.monotonic() - started_s > 0.1
        await conftest.eventually(lambda: cloud.closed == ["s1"])
        await stream.close()
