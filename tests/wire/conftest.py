"""A toy cloud behind a real gRPC server on a free port, and a transport to it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from tests.wire import toy_cloud, toy_tokens

from milliner.wire import client, client_session, server, token_server

# Short enough that a test which waits in vain fails soon; long beside a busy laptop's hiccups.
TIMEOUTS = client_session.Timeouts(connect_s=5.0, open_s=5.0, send_s=5.0, reply_s=5.0, busy_s=5.0)


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


@dataclasses.dataclass(frozen=True, slots=True)
class TokenPair:
    """A server with its toy and a transport connected to it."""

    cloud: toy_tokens.ToyTokens
    server: server.CloudServer
    transport: client.GrpcTokenTransport


@contextlib.asynccontextmanager
async def token_pair(
    cloud: toy_tokens.ToyTokens, *, limits: token_server.TokenLimits = token_server.DEFAULT_LIMITS
) -> AsyncIterator[TokenPair]:
    """Both ends over real gRPC."""
    async with (
        await server.serve(tokens=cloud, token_limits=limits) as running,
        client.GrpcTokenTransport([f"127.0.0.1:{running.port}"], timeouts=TIMEOUTS) as transport,
    ):
        yield TokenPair(cloud, running, transport)


async def eventually(condition: Callable[[], bool], *, within_s: float = 5.0) -> float:
    """Waits until the condition holds and returns the seconds that it took; fails after `within_s`."""
    started_s = time.monotonic()
    while not condition():
        assert time.monotonic() - started_s < within_s, f"the condition did not hold within {within_s} s"
        await asyncio.sleep(0.005)
    return time.monotonic() - started_s


def line(channel: grpc.aio.Channel) -> client_session.Line[Any]:
    """A line to a replica of which nothing is known."""
    return client_session.Line(channel, endpoint="other", timeouts=TIMEOUTS, alive=lambda: False)
