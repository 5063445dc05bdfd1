"""A session over real gRPC: what goes through, in which order, and what ends it."""

from __future__ import annotations

import asyncio
import dataclasses

import grpc
import pytest
from tests.wire import conftest, toy_cloud

from milliner.contract.proto import hidden_states_pb2 as pb
from milliner.core import errors, types
from milliner.wire import client, messages, options, server, server_stream


async def test_frame_and_reply_arrive_as_they_were_sent(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    sent = dataclasses.replace(
        toy_cloud.frame(round_index=3, start_pos=40, num_tokens=5),
        commit_pos=39,
        kind=types.FrameKind.LAST_CHUNK,
        reply_codec=types.Codec.BFLOAT16,
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        payloads=(
            types.Payload(types.Codec.INT4, 4, bytes(range(24))),
            types.Payload(types.Codec.FLOAT16, 1, bytes(range(16))),
        ),
    )
    await stream.send(sent)
    reply = await stream.receive()
    await stream.close()
    assert pair.cloud.frames == [sent]
    assert reply == types.HiddenReply(
        session_id="s1",
        round=3,
        start_pos=40,
        kv_len=45,
        payload=sent.payloads[-1],
        queue_s=0.001,
        compute_s=0.002,
        batched_tokens=5,
        load=types.LoadReport(delay_fixed_s=0.024, running_sessions=1),
        codec_s=0.0005,
    )


async def test_opened_carries_the_clouds_limits(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    assert stream.opened == types.SessionOpened("s1", 1024, types.LoadReport())
    await stream.close()


async def test_frames_in_flight_are_answered_in_their_order(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    pair.cloud.gate.clear()
    for index in range(20):
        await stream.send(toy_cloud.frame(round_index=index, start_pos=index))
    await conftest.eventually(lambda: len(pair.cloud.frames) == 20)  # all reach the service before one is answered
    assert stream.frames_in_flight == 20
    pair.cloud.gate.set()
    assert [(await stream.receive()).round for _ in range(20)] == list(range(20))
    assert [frame.round for frame in pair.cloud.frames] == list(range(20))
    assert stream.frames_in_flight == 0
    await stream.close()


async def test_a_later_frame_that_is_done_first_waits_for_its_turn(pair: conftest.Pair) -> None:
    pair.cloud.delay_s[0] = 0.05
    stream = await pair.transport.open(toy_cloud.session_open())
    for index in range(3):
        await stream.send(toy_cloud.frame(round_index=index, start_pos=index))
    assert [(await stream.receive()).round for _ in range(3)] == [0, 1, 2]
    await stream.close()


async def test_a_frame_that_asks_for_no_positions_is_answered_without_payload(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    await stream.send(toy_cloud.frame(num_tokens=7, reply_positions=types.ReplyPositions.NONE))
    reply = await stream.receive()
    assert reply.payload is None
    assert reply.kv_len == 7
    await stream.close()


async def test_bytes_on_the_wire_are_counted(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    sent, received = stream.bytes_sent, stream.bytes_received
    frame = toy_cloud.frame(num_tokens=100)
    await stream.send(frame)
    await stream.receive()
    await stream.close()
    assert frame.num_bytes < stream.bytes_sent - sent < frame.num_bytes + 100
    assert frame.num_bytes < stream.bytes_received - received < frame.num_bytes + 150


async def test_a_frame_above_grpcs_default_limit_passes(pair: conftest.Pair) -> None:
    """4 MiB would be 512 positions of float16 at width 4,096."""
    pair.cloud.max_frame_tokens = 1 << 20
    stream = await pair.transport.open(dataclasses.replace(toy_cloud.session_open(), max_positions=1 << 20))
    await stream.send(toy_cloud.frame(num_tokens=300_000))  # 9.6 MB
    assert (await stream.receive()).kv_len == 300_000
    await stream.close()


async def test_sessions_of_one_device_share_a_connection_and_do_not_mix(pair: conftest.Pair) -> None:
    async def session(name: str) -> list[bytes]:
        stream = await pair.transport.open(toy_cloud.session_open(name))
        answers = []
        for index in range(10):
            await stream.send(toy_cloud.frame(session_id=name, round_index=index, start_pos=index))
            reply = await stream.receive()
            assert reply.session_id == name
            assert reply.payload is not None
            answers.append(reply.payload.data[:1])
        await stream.close()
        return answers

    results = await asyncio.gather(*(session(f"s{index}") for index in range(8)))
    assert results == [[bytes([index]) for index in range(10)]] * 8


async def test_closing_frees_the_session_on_the_cloud_and_may_be_repeated(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    await stream.close()
    await stream.close()
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    assert pair.server.open_sessions == 0
    with pytest.raises(errors.UnavailableError, match="closed on this side"):
        await stream.send(toy_cloud.frame())
    with pytest.raises(errors.UnavailableError, match="closed on this side"):
        await stream.receive()


async def test_closing_wakes_a_receive_that_waits(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0.02)
    await stream.close()
    with pytest.raises(errors.UnavailableError):
        await waiting


async def test_cancelling_a_receive_loses_no_reply(pair: conftest.Pair) -> None:
    """grpc.aio ends the RPC when a read is cancelled; ours must not."""
    stream = await pair.transport.open(toy_cloud.session_open())
    for _ in range(3):
        waiting = asyncio.create_task(stream.receive())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    await stream.send(toy_cloud.frame(round_index=5))
    assert (await stream.receive()).round == 5
    await stream.close()


async def test_closing_with_frames_in_flight_cancels_their_computation(pair: conftest.Pair) -> None:
    pair.cloud.gate.clear()
    stream = await pair.transport.open(toy_cloud.session_open())
    await stream.send(toy_cloud.frame())
    await conftest.eventually(lambda: len(pair.cloud.frames) == 1)
    await stream.close()
    await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
    assert pair.cloud.cancelled == 1


async def test_the_cloud_reads_no_further_than_its_limit_of_frames_in_flight(pair: conftest.Pair) -> None:
    pair.cloud.gate.clear()
    stream = await pair.transport.open(toy_cloud.session_open())
    for index in range(100):
        await stream.send(toy_cloud.frame(round_index=index))
    await conftest.eventually(lambda: len(pair.cloud.frames) >= 64)
    await asyncio.sleep(0.05)
    assert len(pair.cloud.frames) <= 66  # the limit, and what reader and writer hold
    pair.cloud.gate.set()
    assert [(await stream.receive()).round for _ in range(100)] == list(range(100))
    await stream.close()


async def test_a_stream_on_which_nothing_happens_ends_and_frees_its_session() -> None:
    """It stayed open for as long as the device did, though the engine had forgotten its session."""
    cloud = toy_cloud.ToyCloud()
    limits = server_stream.StreamLimits(idle_s=0.4)
    async with (
        await server.serve(cloud, limits=limits) as running,
        client.GrpcTransport([f"127.0.0.1:{running.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        cloud.delay_s[1] = 1.0  # a frame that takes longer is no idleness
        for index in range(3):
            await asyncio.sleep(0.2)
            await stream.send(toy_cloud.frame(round_index=index, start_pos=index))
            assert (await stream.receive()).round == index
        assert cloud.closed == []
        with pytest.raises(errors.UnknownSession, match=r"nothing came for 0\.4 s"):
            await stream.receive()
        await conftest.eventually(lambda: cloud.closed == ["s1"] and running.open_sessions == 0)
        await stream.close()


async def test_a_stream_that_began_before_the_drain_opens_no_session_after_it(pair: conftest.Pair) -> None:
    """Whether the replica drained was looked up when the stream began, up to 10 s before its Open."""
    channel_options = options.client_options(options.DATA, connect_s=5.0)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pair.server.port}", options=channel_options) as channel:
        call = channel.stream_stream(messages.SESSION_METHOD, None, None)(None)
        await call.wait_for_connection()
        await asyncio.sleep(0.1)  # the server has begun to serve the stream
        await pair.server.drain()
        await call.write(messages.write_open(toy_cloud.session_open()))
        data = await call.read()
        assert isinstance(data, bytes)
        answer = messages.parse_cloud_message(data)
        assert isinstance(answer, pb.Error)
        assert "shutting down" in answer.message
        call.cancel()
    assert pair.cloud.opened == []


async def test_a_device_that_does_not_read_its_replies_loses_its_session() -> None:
    """The end for want of use waited behind the reply that nobody read: the session was held for ever."""
    cloud = toy_cloud.ToyCloud()
    small_window: options.ChannelOptions = [
        *options.client_options(options.DATA, connect_s=5.0),
        ("grpc.http2.bdp_probe", 0),  # 64 KiB for good: soon full
    ]
    async with (
        await server.serve(cloud, limits=server_stream.StreamLimits(idle_s=0.3)) as running,
        grpc.aio.insecure_channel(f"127.0.0.1:{running.port}", options=small_window) as channel,
    ):
        call = channel.stream_stream(messages.SESSION_METHOD, None, None)(None)
        await call.write(messages.write_open(toy_cloud.session_open()))
        for index in range(3):
            await call.write(messages.write_frame(toy_cloud.frame(round_index=index, num_tokens=1000)))  # 32 kB each
        await conftest.eventually(lambda: cloud.closed == ["s1"])
        assert len(cloud.frames) == 3
        call.cancel()
