"""One replica as a device sees it: when it is watched, how long replies are waited for, when it is connected."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import grpc
import pytest
from tests.wire import conftest, toy_cloud

from milliner.core import errors, types
from milliner.wire import client, client_session, client_stream, messages, options, patience, replica


def one_replica(port: int) -> replica.Replica[types.SessionOpened, client_stream.ClientStream]:
    return replica.Replica(
        f"127.0.0.1:{port}",
        dial=f"127.0.0.1:{port}",
        authority="",
        service=messages.SERVICE,
        timeouts=conftest.TIMEOUTS,
        pings=options.HEARTBEAT,
        identity=None,
        patience=patience.Patience(conftest.TIMEOUTS.connect_s),
        on_trouble=lambda: None,
    )


async def test_a_session_that_opens_in_the_moment_in_which_the_watch_is_given_up_is_watched(
    pair: conftest.Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch had been cancelled and was not done yet: it was taken for one that goes on."""
    monkeypatch.setattr(replica, "_LINGER_S", 0.2)
    loop = asyncio.get_running_loop()
    one = one_replica(pair.server.port)
    await (await one.open(lambda line: client_stream.open_stream(line, toy_cloud.session_open()))).close()
    farewell = one._farewell
    assert farewell is not None
    in_that_moment = loop.create_future()

    async def open_late(line: client_session.Line[types.SessionOpened]) -> client_stream.ClientStream:
        stream = await client_stream.open_stream(line, toy_cloud.session_open("s2"))
        # The loop is held up until both timers are due; they then fire in one turn, the opening's first.
        loop.call_at(farewell.when() - 0.02, time.sleep, 0.05)
        loop.call_at(farewell.when() - 0.001, in_that_moment.set_result, None)
        await in_that_moment
        return stream

    stream = await one.open(open_late)
    await pair.server.set_serving(False)
    await conftest.eventually(lambda: one.shunned)
    await stream.close()
    await one.close()


async def test_a_connection_that_failed_is_not_ready(pair: conftest.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that ended with an error counted as a connection."""
    stands = f"127.0.0.1:{pair.server.port}"
    ready = replica.Replica.ready

    async def broken_elsewhere(self: replica.Replica[Any, Any]) -> None:
        if self.target != stands:
            raise grpc.aio.UsageError("Channel is closed.")
        await asyncio.sleep(0.05)
        await ready(self)
        connected.append(self.target)

    monkeypatch.setattr(replica.Replica, "ready", broken_elsewhere)
    connected: list[str] = []
    async with client.GrpcTransport(["127.0.0.1:1", stands], timeouts=conftest.TIMEOUTS) as transport:
        await transport.wait_ready(5.0)
        assert connected == [stands]
    async with client.GrpcTransport(["127.0.0.1:1"], timeouts=conftest.TIMEOUTS) as transport:
        with pytest.raises(errors.UnavailableError, match=r"no connection to 127\.0\.0\.1:1: Channel is closed"):
            await transport.wait_ready(5.0)


async def test_a_long_queue_in_a_living_replica_is_waited_out(pair: conftest.Pair) -> None:
    """The session was given up after `reply_s` and replayed elsewhere: under overload, by every device at once."""
    patient = dataclasses.replace(conftest.TIMEOUTS, reply_s=0.5, busy_s=10.0)
    pair.cloud.gate.clear()
    async with client.GrpcTransport([f"127.0.0.1:{pair.server.port}"], timeouts=patient) as transport:
        stream = await transport.open(toy_cloud.session_open())
        await stream.send(toy_cloud.frame())
        waiting = asyncio.create_task(stream.receive())
        await asyncio.sleep(1.2)
        assert not waiting.done()
        pair.cloud.gate.set()
        assert (await waiting).kv_len == 1
        assert pair.cloud.opened == ["s1"]
        await stream.close()


async def test_a_living_replica_is_waited_for_no_longer_than_agreed(pair: conftest.Pair) -> None:
    """Its process answers pings, its engine hangs."""
    impatient = dataclasses.replace(conftest.TIMEOUTS, reply_s=0.5, busy_s=0.8)
    pair.cloud.gate.clear()
    async with client.GrpcTransport([f"127.0.0.1:{pair.server.port}"], timeouts=impatient) as transport:
        stream = await transport.open(toy_cloud.session_open())
        await stream.send(toy_cloud.frame())
        with pytest.raises(errors.DeadlineExceeded, match=r"waited 0.8 s for a reply"):
            await stream.receive()
        await conftest.eventually(lambda: pair.cloud.closed == ["s1"])
        await stream.close()
