"""Peers that die, fall silent or refuse: found in time, typed, and another replica takes over."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.wire import conftest, toy_cloud

from milliner.core import errors
from milliner.wire import client, client_session, emulated_link, messages, options, server

LOCAL = emulated_link.LinkConditions(uplink_bytes_per_s=50e6, downlink_bytes_per_s=50e6, round_trip_s=0.002)


@contextlib.asynccontextmanager
async def cloud_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    root = pathlib.Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.wire.cloud_process", cwd=root, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process, int(await process.stdout.readline())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextlib.contextmanager
def swallowing() -> Iterator[str]:
    """An address whose kernel takes connections and whose program never does."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        yield f"127.0.0.1:{hole.getsockname()[1]}"


async def test_a_device_that_vanishes_frees_its_session(pair: conftest.Pair) -> None:
    """Its link is reset in the middle of a frame's computation."""
    pair.cloud.gate.clear()
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, LOCAL) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        await stream.send(toy_cloud.frame())
        await conftest.eventually(lambda: len(pair.cloud.frames) == 1)
        link.drop_connections()
        with pytest.raises(errors.UnavailableError):
            await stream.receive()
        await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
        assert pair.cloud.cancelled == 1
        await stream.close()


async def test_a_silent_device_is_found_by_the_clouds_keepalive() -> None:
    cloud = toy_cloud.ToyCloud()
    keepalive = options.Keepalive(interval_s=0.3, timeout_s=0.3)
    async with (
        await server.serve(cloud, keepalive=keepalive) as running,
        emulated_link.EmulatedLink("127.0.0.1", running.port, LOCAL) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        link.cut()
        await conftest.eventually(lambda: cloud.closed == ["s1"])
        await stream.close()


async def test_a_killed_cloud_is_noticed_at_once() -> None:
    async with (
        cloud_process() as (process, port),
        client.GrpcTransport([f"127.0.0.1:{port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        waiting = asyncio.create_task(stream.receive())
        process.kill()
        started_s = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            await waiting
        assert time.monotonic() - started_s < 2
        with pytest.raises(errors.UnavailableError):
            await stream.send(toy_cloud.frame())
        await stream.close()


async def test_a_silent_cloud_is_found_within_two_seconds(pair: conftest.Pair) -> None:
    """The promise of `options.HEARTBEAT`; half a second more for a busy test machine."""
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, LOCAL) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        await stream.send(toy_cloud.frame())
        await stream.receive()
        link.cut()
        await stream.send(toy_cloud.frame())
        started_s = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            await stream.receive()
        assert time.monotonic() - started_s < 2.5
        await stream.close()


async def test_a_stopped_cloud_process_is_found_within_two_seconds() -> None:
    """SIGSTOP: the kernel still takes bytes, nobody answers."""
    async with (
        cloud_process() as (process, port),
        client.GrpcTransport([f"127.0.0.1:{port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        process.send_signal(signal.SIGSTOP)
        await stream.send(toy_cloud.frame())
        started_s = time.monotonic()
        with pytest.raises(errors.UnavailableError):
            await stream.receive()
        assert time.monotonic() - started_s < 2.5
        await stream.close()


async def test_a_busy_slow_link_is_not_taken_for_a_dead_one(pair: conftest.Pair) -> None:
    """One frame takes three seconds to upload, longer than silence may last."""
    pair.cloud.max_frame_tokens = 1 << 20
    slow = emulated_link.LinkConditions(uplink_bytes_per_s=1e5, downlink_bytes_per_s=1e5, round_trip_s=0.1)
    request = dataclasses.replace(toy_cloud.session_open(), max_positions=1 << 20)
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, slow) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=client_session.Timeouts()) as transport,
    ):
        stream = await transport.open(request)
        started_s = time.monotonic()
        await stream.send(toy_cloud.frame(num_tokens=9_400))  # 300 kB up, as much down
        assert (await stream.receive()).kv_len == 9_400
        assert time.monotonic() - started_s > 5
        await stream.close()


async def test_an_idle_stream_lives_on_though_it_is_pinged_often(pair: conftest.Pair) -> None:
    """C-core servers answer frequent pings with GOAWAY too_many_pings unless told otherwise; three are enough."""
    frequent = options.Keepalive(interval_s=0.1, timeout_s=2.0)
    async with client.GrpcTransport(
        [f"127.0.0.1:{pair.server.port}"], timeouts=conftest.TIMEOUTS, heartbeat=frequent
    ) as transport:
        stream = await transport.open(toy_cloud.session_open())
        await asyncio.sleep(1.2)
        await stream.send(toy_cloud.frame())
        assert (await stream.receive()).kv_len == 1
        await stream.close()


async def test_a_link_that_is_mended_in_time_goes_on_where_it_was(pair: conftest.Pair) -> None:
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, LOCAL) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        stream = await transport.open(toy_cloud.session_open())
        link.cut()
        await stream.send(toy_cloud.frame(round_index=4))
        await asyncio.sleep(0.3)
        assert pair.cloud.frames == []
        link.mend()
        assert (await stream.receive()).round == 4
        await stream.close()


async def test_a_cloud_that_answers_nothing_meets_the_reply_deadline(pair: conftest.Pair) -> None:
    """Its process answers pings, its engine hangs."""
    pair.cloud.gate.clear()
    impatient = dataclasses.replace(conftest.TIMEOUTS, reply_s=0.1, busy_s=0.1)
    async with client.GrpcTransport([f"127.0.0.1:{pair.server.port}"], timeouts=impatient) as transport:
        stream = await transport.open(toy_cloud.session_open())
        await stream.send(toy_cloud.frame())
        with pytest.raises(errors.DeadlineExceeded, match=r"waited 0.1 s for a reply"):
            await stream.receive()
        await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
        await stream.close()


async def test_an_open_that_is_not_answered_meets_the_open_deadline(pair: conftest.Pair) -> None:
    pair.cloud.open_gate.clear()
    impatient = dataclasses.replace(conftest.TIMEOUTS, open_s=0.1)
    async with client.GrpcTransport([f"127.0.0.1:{pair.server.port}"], timeouts=impatient) as transport:
        with pytest.raises(errors.DeadlineExceeded, match=r"waited 0.1 s for Opened"):
            await transport.open(toy_cloud.session_open())
        await conftest.eventually(lambda: pair.cloud.closed == ["s1"])


async def test_an_address_that_swallows_connections_meets_the_connect_deadline() -> None:
    impatient = dataclasses.replace(conftest.TIMEOUTS, connect_s=0.2, open_s=0.2)
    with swallowing() as target:
        async with client.GrpcTransport([target], timeouts=impatient) as transport:
            started_s = time.monotonic()
            with pytest.raises(errors.UnavailableError):
                await transport.open(toy_cloud.session_open())
            assert time.monotonic() - started_s < 2


async def test_a_port_where_nobody_listens_is_unavailable_at_once() -> None:
    async with client.GrpcTransport(["127.0.0.1:1"], timeouts=conftest.TIMEOUTS) as transport:
        with pytest.raises(errors.UnavailableError, match=r"127\.0\.0\.1:1"):
            await transport.open(toy_cloud.session_open())
        with pytest.raises(errors.DeadlineExceeded, match="no connection"):
            await transport.wait_ready(0.1)


async def test_a_dead_replica_costs_no_request() -> None:
    cloud = toy_cloud.ToyCloud()
    async with (
        await server.serve(cloud) as running,
        client.GrpcTransport(["127.0.0.1:1", f"127.0.0.1:{running.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        await transport.wait_ready(5)
        for index in range(4):
            stream = await transport.open(toy_cloud.session_open(f"s{index}"))
            assert stream.endpoint.endswith(str(running.port))
            await stream.close()
    assert cloud.opened == ["s0", "s1", "s2", "s3"]


async def test_sessions_spread_over_replicas_and_avoid_a_full_one() -> None:
    clouds = [toy_cloud.ToyCloud() for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(await server.serve(cloud)) for cloud in clouds]
        transport = await stack.enter_async_context(
            client.GrpcTransport([f"127.0.0.1:{running.port}" for running in servers], timeouts=conftest.TIMEOUTS)
        )
        streams = [await transport.open(toy_cloud.session_open(f"s{index}")) for index in range(6)]
        assert [len(cloud.opened) for cloud in clouds] == [2, 2, 2]
        clouds[0].refuse_open = errors.TooManySessions("full", retry_after_s=3.0)
        streams += [await transport.open(toy_cloud.session_open(f"t{index}")) for index in range(4)]
        assert [len(cloud.opened) for cloud in clouds] == [2, 4, 4]
        for cloud in clouds:
            cloud.refuse_open = errors.TooManySessions("full", retry_after_s=3.0)
        with pytest.raises(errors.TooManySessions) as caught:
            await transport.open(toy_cloud.session_open("u"))
        assert caught.value.retry_after_s == 3.0
        for stream in streams:
            await stream.close()


async def test_a_session_moves_to_the_replica_that_is_left_when_its_own_stops() -> None:
    clouds = [toy_cloud.ToyCloud(), toy_cloud.ToyCloud()]
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(await server.serve(cloud)) for cloud in clouds]
        ports = [running.port for running in servers]
        transport = await stack.enter_async_context(
            client.GrpcTransport([f"127.0.0.1:{port}" for port in ports], timeouts=conftest.TIMEOUTS)
        )
        first = await transport.open(toy_cloud.session_open("first"))
        lost = ports.index(int(first.endpoint.rsplit(":", 1)[1]))
        await servers[lost].stop()
        with pytest.raises(errors.UnavailableError):
            await first.receive()
        await first.close()
        again = await transport.open(toy_cloud.session_open("again"))
        assert clouds[1 - lost].opened == ["again"]
        await again.close()


async def test_sessions_that_open_while_the_connection_is_given_up_fail_or_open_but_never_hang() -> None:
    """grpc.aio's `wait_for_connection` never returned when another session's failure closed the channel."""
    async with client.GrpcTransport(["127.0.0.1:1"], timeouts=conftest.TIMEOUTS) as transport:
        started_s = time.monotonic()
        results = await asyncio.gather(
            *(transport.open(toy_cloud.session_open(f"s{index}")) for index in range(20)), return_exceptions=True
        )
        assert {type(result) for result in results} == {errors.UnavailableError}
        assert time.monotonic() - started_s < 3


async def test_closing_the_transport_wakes_a_session_that_is_connecting() -> None:
    with swallowing() as target:
        transport = client.GrpcTransport([target], timeouts=client_session.Timeouts(connect_s=30.0))
        opening = asyncio.create_task(transport.open(toy_cloud.session_open()))
        await asyncio.sleep(0.1)
        await transport.close()
        with pytest.raises(errors.UnavailableError, match="given up"):
            await asyncio.wait_for(opening, 5)
        await transport.close()


async def test_a_draining_replica_takes_no_new_session_and_finishes_old_ones(pair: conftest.Pair) -> None:
    stream = await pair.transport.open(toy_cloud.session_open())
    await pair.server.drain()
    with pytest.raises(errors.UnavailableError, match="shutting down"):
        await pair.transport.open(toy_cloud.session_open("s2"))
    await stream.send(toy_cloud.frame())
    assert (await stream.receive()).kv_len == 1
    await stream.close()


async def test_stopping_gives_open_sessions_their_grace_and_no_more(pair: conftest.Pair) -> None:
    """The heartbeat's health watch stays open and must not hold the server up."""
    stream = await pair.transport.open(toy_cloud.session_open())
    started_s = time.monotonic()
    stopping = asyncio.create_task(pair.server.stop(grace_s=5.0))
    await asyncio.sleep(0.05)
    await stream.send(toy_cloud.frame())
    assert (await stream.receive()).kv_len == 1
    await stream.close()
    await stopping
    assert time.monotonic() - started_s < 3


async def test_health_follows_serving_and_draining(pair: conftest.Pair) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{pair.server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(service: str = "") -> int:
            return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)

        assert await status() == health_pb2.HealthCheckResponse.SERVING
        await pair.server.set_serving(False)
        assert await status(messages.SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
        await pair.server.set_serving(True)
        assert await status(messages.SERVICE) == health_pb2.HealthCheckResponse.SERVING
        await pair.server.drain()
        assert await status() == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_taken_port_is_a_configuration_error(pair: conftest.Pair) -> None:
    with pytest.raises(errors.ConfigError, match=str(pair.server.port)):
        await server.serve(toy_cloud.ToyCloud(), port=pair.server.port)


async def test_stopping_the_server_ends_streams_and_closes_their_sessions() -> None:
    cloud = toy_cloud.ToyCloud()
    running = await server.serve(cloud)
    async with client.GrpcTransport([f"127.0.0.1:{running.port}"], timeouts=conftest.TIMEOUTS) as transport:
        stream = await transport.open(toy_cloud.session_open())
        await running.stop()
        await running.stop()
        with pytest.raises(errors.UnavailableError):
            await stream.receive()
        await conftest.eventually(lambda: cloud.closed == ["s1"])
        await stream.close()
