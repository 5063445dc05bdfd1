"""The health connection: ends that say nothing about the replica are tried again, the others are told apart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tests.wire import conftest, test_faults, toy_cloud

from milliner.core import errors
from milliner.wire import client, emulated_link, heartbeat, messages, server

Status = health_pb2.HealthCheckResponse
LOCAL = emulated_link.LinkConditions(uplink_bytes_per_s=50e6, downlink_bytes_per_s=50e6, round_trip_s=0.002)


class ScriptedHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """Ends the first watches (and checks) with the codes given, then says `statuses` and stays silent."""

    def __init__(self, *codes: grpc.StatusCode, statuses: tuple[int, ...] = (Status.SERVING,)) -> None:
        self.codes = list(codes)
        self.statuses = statuses
        self.watches = 0

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> health_pb2.HealthCheckResponse:
        if self.codes:
            await context.abort(self.codes.pop(0), "scripted")
        return Status(status=self.statuses[-1])

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        self.watches += 1
        if self.codes:
            await context.abort(self.codes.pop(0), "scripted")
        for status in self.statuses:
            yield Status(status=status)
        await asyncio.sleep(30)


@contextlib.asynccontextmanager
async def beating(servicer: object | None) -> AsyncIterator[heartbeat.Heartbeat]:
    """A heartbeat to a server with this health service, or without one."""
    running = grpc.aio.server()
    if servicer is not None:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, running)
    target = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    await running.start()
    one = heartbeat.Heartbeat(target, lambda: grpc.aio.insecure_channel(target), service=messages.SERVICE)
    try:
        yield one
    finally:
        await one.close()
        await running.stop(None)


@contextlib.asynccontextmanager
async def watching(one: heartbeat.Heartbeat) -> AsyncIterator[asyncio.Task[str]]:
    watch = asyncio.create_task(one.watch())
    try:
        yield watch
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED]
)
async def test_a_watch_that_ends_for_another_reason_than_silence_stands_again(
    code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It ended for good and without a word: the replica's drain and death went unseen from then on."""
    monkeypatch.setattr(heartbeat, "_FIRST_DELAY_S", 0.01)
    scripted = ScriptedHealth(code, code, statuses=(Status.SERVING, Status.NOT_SERVING))
    with caplog.at_level(logging.WARNING):
        async with beating(scripted) as one, watching(one) as watch:
            await conftest.eventually(lambda: not one.serving)
            assert scripted.watches == 3
            assert not watch.done()
    assert caplog.text.count(f"{code.name}: scripted; watching again in 0.0") == 2


@pytest.mark.parametrize(
    ("servicer", "words"),
    [
        (None, "it has no health service"),
        (ScriptedHealth(grpc.StatusCode.PERMISSION_DENIED), "it keeps its health from this device"),
    ],
)
async def test_a_replica_without_health_is_named_and_not_taken_for_lost(
    servicer: ScriptedHealth | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with beating(servicer) as one:
            assert await asyncio.wait_for(one.watch(), 5) == ""
            assert await one.check(within_s=5.0) == ""
    assert words in caplog.text


async def test_a_watch_tells_why_the_replica_is_lost() -> None:
    async with beating(ScriptedHealth(grpc.StatusCode.UNAVAILABLE)) as one:
        assert await asyncio.wait_for(one.watch(), 5) == "scripted"


async def test_a_check_asks_twice_where_the_first_connection_may_be_stale() -> None:
    async with beating(ScriptedHealth()) as one:
        assert await one.check(within_s=5.0) == ""
    scripted = ScriptedHealth()
    async with beating(scripted) as one:
        assert await one.check(within_s=5.0) == ""
        scripted.codes = [grpc.StatusCode.UNAVAILABLE]
        assert await one.check(within_s=5.0) == ""  # the second one, on a new connection
        scripted.codes = [grpc.StatusCode.UNAVAILABLE] * 2
        assert "scripted" in await one.check(within_s=5.0)


async def test_a_check_of_a_closed_port_says_so_in_plain_words() -> None:
    """As at each start of `milliner up`: what C-core says of it reads like a fault."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        target = f"127.0.0.1:{taken.getsockname()[1]}"
    one = heartbeat.Heartbeat(target, lambda: grpc.aio.insecure_channel(target), service=messages.SERVICE)
    try:
        assert await one.check(within_s=5.0) == f"the cloud on {target} does not answer (connection refused)"
    finally:
        await one.close()


async def test_a_check_says_that_a_replica_drains() -> None:
    async with beating(ScriptedHealth(statuses=(Status.NOT_SERVING,))) as one:
        assert "is not serving" in await one.check(within_s=5.0)


async def test_a_watch_survives_that_a_check_gives_up_their_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """grpc.aio raises CancelledError in calls of a closed channel; the watch's task must not end with it."""
    monkeypatch.setattr(heartbeat, "_FIRST_DELAY_S", 0.01)
    scripted = ScriptedHealth()
    async with beating(scripted) as one, watching(one) as watch:
        await conftest.eventually(lambda: scripted.watches == 1)
        await one.close()
        await conftest.eventually(lambda: scripted.watches == 2)
        assert not watch.done()


async def test_the_transport_says_why_nobody_answers_and_when_somebody_does_again() -> None:
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(await server.serve(toy_cloud.ToyCloud())) for _ in range(2)]
        ports = [one.port for one in running]
        transport = await stack.enter_async_context(
            client.GrpcTransport([f"127.0.0.1:{port}" for port in ports], timeouts=conftest.TIMEOUTS)
        )
        assert await transport.why_unreachable() == ""
        await running[0].stop()
        assert await transport.why_unreachable() == ""
        await running[1].stop()
        why = await transport.why_unreachable()
        assert all(f"127.0.0.1:{port}" in why for port in ports)
        await stack.enter_async_context(await server.serve(toy_cloud.ToyCloud(), port=ports[1]))
        assert await transport.why_unreachable() == ""


async def test_a_replica_that_came_back_is_preferred_again_once_it_was_asked() -> None:
    """Nothing but the failure of all others led sessions back to it."""
    clouds = [toy_cloud.ToyCloud(), toy_cloud.ToyCloud()]
    async with contextlib.AsyncExitStack() as stack:
        running = [await stack.enter_async_context(await server.serve(cloud)) for cloud in clouds]
        transport = await stack.enter_async_context(
            client.GrpcTransport([f"127.0.0.1:{one.port}" for one in running], timeouts=conftest.TIMEOUTS)
        )
        clouds[0].refuse_open = errors.UnavailableError("not now")
        for index in range(2):
            await (await transport.open(toy_cloud.session_open(f"a{index}"))).close()
        clouds[0].refuse_open = None
        assert await transport.why_unreachable() == ""
        for index in range(2):
            await (await transport.open(toy_cloud.session_open(f"b{index}"))).close()
    assert len([name for name in clouds[0].opened if name.startswith("b")]) == 1


async def test_a_session_in_use_that_falls_silent_is_told_at_once_and_checks_agree(pair: conftest.Pair) -> None:
    async with (
        emulated_link.EmulatedLink("127.0.0.1", pair.server.port, LOCAL) as link,
        client.GrpcTransport([f"127.0.0.1:{link.port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        troubles: list[float] = []
        transport.on_trouble = lambda: troubles.append(0.0)
        stream = await transport.open(toy_cloud.session_open())
        assert await transport.why_unreachable() == ""
        link.cut()
        await conftest.eventually(lambda: len(troubles) == 1, within_s=2.5)
        with pytest.raises(errors.UnavailableError):
            await stream.receive()
        assert await asyncio.wait_for(transport.why_unreachable(), 5) != ""
        link.mend()
        assert await transport.why_unreachable() == ""


async def test_an_idle_device_finds_that_its_cloud_was_stopped() -> None:
    """SIGSTOP: the kernel takes connections and bytes, nobody answers. No session is open, so no watch stands."""
    async with (
        test_faults.cloud_process() as (process, port),
        client.GrpcTransport([f"127.0.0.1:{port}"], timeouts=conftest.TIMEOUTS) as transport,
    ):
        assert await transport.why_unreachable() == ""
        process.send_signal(signal.SIGSTOP)
        assert f"127.0.0.1:{port}" in await asyncio.wait_for(transport.why_unreachable(), 8)
        process.send_signal(signal.SIGCONT)
        assert await transport.why_unreachable() == ""


async def test_health_of_a_server_that_knows_no_such_service_is_no_health() -> None:
    async with beating(health.aio.HealthServicer()) as one:  # type: ignore[attr-defined]
        assert "NOT_FOUND" in await one.check(within_s=5.0)
