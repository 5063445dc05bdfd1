"""A toy cloud behind a real gRPC server on a free port, and a transport to it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Callable

import pytest
from tests.wire import toy_cloud

from milliner.wire import client, client_stream, server

# Short enough that a test which waits in vain fails soon; long beside a busy laptop's hiccups.
TIMEOUTS = client_stream.Timeouts(connect_s=5.0, open_s=5.0, send_s=5.0, reply_s=5.0, busy_s=5.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """A server with its toy and a transport connected to it."""

    cloud: toy_cloud.ToyCloud
    server: server.CloudServer
    transport: client.GrpcTransport


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    cloud = toy_cloud.ToyCloud()
    async with (
        await server.serve(cloud) as running,
        client.GrpcTransport([f"127.0.0.1:{running.port}"], timeouts=TIMEOUTS) as transport,
    ):
        yield Pair(cloud, running, transport)


async def eventually(condition: Callable[[], bool], *, within_s: float = 5.0) -> float:
    """Waits until the condition holds and returns the seconds that it took; fails after `within_s`."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"the condition did not hold within {within_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - started_s
