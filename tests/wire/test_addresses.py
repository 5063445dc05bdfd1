"""A cloud that listens on all addresses is reached by IPv4, and by IPv6 where the machine has it."""

from __future__ import annotations

import asyncio
import socket

import grpc
import pytest
from tests.wire import toy_cloud

from milliner.roles import http_server
from milliner.wire import server

HOSTS = ["127.0.0.1", *(["[::1]"] if socket.has_dualstack_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
async def test_all_addresses_are_those_of_both_families(host: str) -> None:
    async with (
        await server.serve(toy_cloud.ToyCloud(), host=http_server.ALL_ADDRESSES) as running,
        grpc.aio.insecure_channel(f"{host}:{running.port}") as channel,
        asyncio.timeout(10),
    ):
        await channel.channel_ready()
