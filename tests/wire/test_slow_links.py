"""Links on which a connection takes longer than the usual deadline: they can be used; a dead replica costs no more."""

from __future__ import annotations

import asyncio
import pathlib
import socket
import time
from collections.abc import Iterator

import pytest
from tests.wire import test_tls, toy_cloud

from milliner.core import errors
from milliner.wire import client, client_session, emulated_link, options, patience, server, tls

SECOND = emulated_link.LinkConditions(uplink_bytes_per_s=50e6, downlink_bytes_per_s=50e6, round_trip_s=1.0)
HEARTBEATS_S = 4.0  # two intervals and deadlines of heartbeats that expect the usual round trip


def test_deadlines_grow_while_nobody_answers_and_follow_what_connecting_took() -> None:
    found = patience.Patience(2.0)
    assert (found.scale, found.pings(options.HEARTBEAT)) == (1.0, options.HEARTBEAT)
    for expected in (4.0, 8.0, 8.0):
        found.nobody_answered()
        assert found.connect_s == expected
    assert found.pings(options.HEARTBEAT).timeout_s == pytest.approx(4 * options.HEARTBEAT.timeout_s)
    found.connected(3.0)
    assert found.connect_s == 6.0
    found.connected(0.1)
    assert (found.connect_s, found.scale) == (2.0, 1.0)


def test_a_longer_deadline_than_the_largest_stays() -> None:
    found = patience.Patience(30.0)
    found.nobody_answered()
    assert found.connect_s == 30.0


@pytest.mark.parametrize(("waited_s", "late"), [(0.01, False), (1.7, False), (1.9, True), (2.0, True)])
def test_a_refusal_is_no_lateness(waited_s: float, late: bool) -> None:
    assert patience.Patience(2.0).is_late(waited_s, usual_s=2.0) is late


class Slow(test_tls.ByLink):
    """The way over a link of a second's round trip."""

    conditions = SECOND


async def test_a_second_of_round_trip_under_tls_is_no_dead_cloud(tmp_path: pathlib.Path) -> None:
    """Each connection was given up just before it stood, and each heartbeat before its answer came."""
    async with test_tls.secured(tmp_path) as topology:
        way, target = Slow(), f"127.0.0.1:{topology.port}"
        identity = tls.Identity(topology.device.files)
        async with client.GrpcTransport([target], identity=identity, route=way) as transport:
            async with asyncio.timeout(30):
                while await transport.why_unreachable():
                    await asyncio.sleep(0)
                stream = await transport.open(toy_cloud.session_open())
            until_s = time.monotonic() + HEARTBEATS_S
            position = 0
            while time.monotonic() < until_s:
                await test_tls.exchange(stream, position, session_id="s1")
                position += 1
            assert position > 0
        await way.close(target)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


TIMEOUTS = client_session.Timeouts(connect_s=0.4, open_s=5.0)
PINGS = options.Keepalive(interval_s=0.3, timeout_s=0.3)


async def test_deadlines_do_not_grow_where_another_replica_lives(silent: str) -> None:
    async with await server.serve(toy_cloud.ToyCloud()) as running:
        lives = f"127.0.0.1:{running.port}"
        async with client.GrpcTransport([silent, lives], timeouts=TIMEOUTS, heartbeat=PINGS) as transport:
            for number in range(3):
                assert await transport.why_unreachable() == ""
                stream = await transport.open(toy_cloud.session_open(f"s{number}"))
                assert stream.endpoint == lives
            assert transport._patience.scale == 1.0


async def test_deadlines_grow_where_nobody_says_anything_and_not_where_all_refuse(silent: str) -> None:
    async with client.GrpcTransport([silent], timeouts=TIMEOUTS, heartbeat=PINGS) as transport:
        with pytest.raises(errors.UnavailableError):
            await transport.open(toy_cloud.session_open())
        assert transport._patience.scale == 2.0
        assert await transport.why_unreachable()
        assert transport._patience.scale == 4.0
    async with client.GrpcTransport(["127.0.0.1:1"], timeouts=TIMEOUTS, heartbeat=PINGS) as transport:
        with pytest.raises(errors.UnavailableError):
            await transport.open(toy_cloud.session_open())
        assert transport._patience.scale == 1.0
