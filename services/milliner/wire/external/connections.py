"""Connections to an external engine that outlive an answer: the next request pays for no handshake.

A few wait for the next request, for a while. One that the server closes at the moment of being used again costs nothing
either: as long as nothing of an answer has come over a connection that was used before, the request is sent over
another. Such a request may be computed twice, which changes no answer. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

_MOST_IDLE = 8  # arbitrary
# Arbitrary: longer than the 5 s after which the servers of vLLM, SGLang and llama.cpp close one themselves, shorter
# than the minute for which gateways keep theirs.
_IDLE_S = 30.0
# Of an answer whose tokens are all there: its last line, which is on its way. Both arbitrary.
_REST_S = 2.0
_MOST_REST_BYTES = 1 << 16


class Connections:
    """See the module. `close` ends all of them."""

    def __init__(self, *, connect_s: float, tls: bool) -> None:
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity", "User-Agent": "milliner"},
            timeout=httpx.Timeout(None, connect=connect_s),
            verify=tls,  # reading the certificates takes a while
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=_MOST_IDLE, keepalive_expiry=_IDLE_S),
        )
        self._rests: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for rest in self._rests:
            rest.cancel()
        await asyncio.gather(*self._rests, return_exceptions=True)
        await self._client.aclose()

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, url: httpx.URL, *, body: object, headers: Mapping[str, str], extensions: Mapping[str, Any]
    ) -> AsyncIterator[httpx.Response]:
        """An answer's head, of whatever status; its body is still to be read. Raises `httpx.HTTPError`."""
        response = await self._sent(method, url, body, headers, extensions)
        try:
            yield response
        finally:
            await response.aclose()

    def take_rest(self, chunks: AsyncIterator[bytes], owned: contextlib.AsyncExitStack) -> None:
        """Reads what little is left of an answer, so that its connection can be used again; then closes `owned`."""
        rest = asyncio.get_running_loop().create_task(_take(chunks, owned), name="rest of an answer")
        self._rests.add(rest)
        rest.add_done_callback(self._rests.discard)

    async def _sent(
        self, method: str, url: httpx.URL, body: object, headers: Mapping[str, str], extensions: Mapping[str, Any]
    ) -> httpx.Response:
        for _ in range(_MOST_IDLE):
            seen = set[str]()

            async def trace(event: str, _: object, seen: set[str] = seen) -> None:
                seen.add(event)

            try:
                return await self._send_once(method, url, body, headers, {**extensions, "trace": trace})
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                if "connection.connect_tcp.started" in seen:
                    raise
        return await self._send_once(method, url, body, headers, extensions)

    async def _send_once(
        self, method: str, url: httpx.URL, body: object, headers: Mapping[str, str], extensions: Mapping[str, Any]
    ) -> httpx.Response:
        request = self._client.build_request(method, url, json=body, headers=headers, extensions=dict(extensions))
        return await self._client.send(request, stream=True)


async def _take(chunks: AsyncIterator[bytes], owned: contextlib.AsyncExitStack) -> None:
    async with owned:
        left = _MOST_REST_BYTES
        with contextlib.suppress(TimeoutError, httpx.HTTPError):  # then it costs the connection and nothing else
            async with asyncio.timeout(_REST_S):
                async for chunk in chunks:
                    left -= len(chunk)
                    if left < 0:
                        return
