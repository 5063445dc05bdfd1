"""Connections to the server of a role: half-sent requests end, too many make room, requests are not disturbed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette import applications, requests, responses, routing

from milliner.api import connections
from milliner.roles import http_server

Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Application:
    """Answers at once, when told to, or without reading the body."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.held = 0

    def app(self) -> applications.Starlette:
        return applications.Starlette(
            routes=[
                routing.Route("/", self.at_once),
                routing.Route("/held", self.hold),
                routing.Route("/unread", self.at_once, methods=["POST"]),
            ]
        )

    async def at_once(self, _: requests.Request) -> responses.Response:
        return responses.PlainTextResponse("here")

    async def hold(self, _: requests.Request) -> responses.Response:
        self.held += 1
        await self.release.wait()
        return responses.PlainTextResponse("held")


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch, application: Application) -> AsyncIterator[int]:
    monkeypatch.setattr(connections, "RECEIVE_S", 0.3)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 6)
    listening = http_server.bind("127.0.0.1", 0)
    async with http_server.serving(application.app(), listening):
        yield listening.getsockname()[1]


async def connect(port: int, data: bytes = b"") -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def said(peer: Peer) -> bytes:
    """Everything until the server closes."""
    async with asyncio.timeout(5):
        answer = await peer[0].read()
    peer[1].close()
    return answer


async def test_half_sent_headers_have_a_deadline_that_further_bytes_do_not_move(port: int) -> None:
    """300 sockets that sent half a header were held for ever."""
    peer = await connect(port, b"GET / HTTP/1.1\r\nHost: x\r\n")

    async def trickle() -> None:
        while True:
            await asyncio.sleep(0.02)
            peer[1].write(b"X-A: b\r\n")

    trickling = asyncio.create_task(trickle())
    answer = await said(peer)
    trickling.cancel()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    assert await said(await connect(port)) == b""  # nothing sent: nothing said


async def test_a_second_request_on_a_connection_has_the_deadline_too(port: int) -> None:
    reader, writer = await connect(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.5)  # idle, which is allowed for longer
    writer.write(b"GET / HTTP/1.1\r\n")
    assert (await said((reader, writer))).startswith(b"HTTP/1.1 408")


async def test_the_rest_of_a_body_that_nobody_reads_has_the_deadline(port: int) -> None:
    reader, writer = await connect(port, b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    await reader.readuntil(b"here")
    for _ in range(3):
        writer.write(b"x")
        await asyncio.sleep(0.02)
    assert await said((reader, writer)) == b""


async def test_a_slow_answer_is_not_cut_and_pooled_connections_live(port: int, application: Application) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        slow = asyncio.create_task(client.get("/held"))
        await asyncio.sleep(0.6)
        application.release.set()
        assert (await slow).text == "held"
        await asyncio.sleep(0.5)
        assert (await client.get("/")).text == "here"


async def test_connections_without_a_request_make_room_and_those_with_one_do_not(
    port: int, application: Application
) -> None:
    idle = [await connect(port) for _ in range(6)]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        waiting = [asyncio.create_task(client.get("/held")) for _ in range(6)]
        async with asyncio.timeout(5):
            while application.held < 6:
                await asyncio.sleep(0.01)
        assert [await said(peer) for peer in idle] == [b""] * 6
        refused = await said(await connect(port))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"too_many_connections" in refused
        application.release.set()
        assert [(await answer).text for answer in waiting] == ["held"] * 6
        assert (await client.get("/")).text == "here"


async def test_a_client_that_resets_leaves_no_timer(port: int) -> None:
    _, writer = await connect(port, b"GET / HT")
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.close()
    await asyncio.sleep(0.5)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert (await client.get("/")).text == "here"
