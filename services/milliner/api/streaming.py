"""Server-sent events whose producer dies with the connection.

Starlette's own streaming notices a vanished client only when it sends. Here the connection is watched all the while:
when it closes, the producer is cancelled where it stands, which frees both tiers. The response starts with the first
event, so an error before it still gets its HTTP status; one after it becomes an event, and the stream ends without
`[DONE]`, so that nobody takes half an answer for a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette import responses
from starlette import types as asgi

from milliner.api import errors

T = TypeVar("T")
Emit = Callable[[Mapping[str, object]], Awaitable[None]]

# A client that takes nothing for this long is treated as gone (arbitrary; a proxy's usual idle limit).
MAX_WRITE_S = 60.0

_LOG = logging.getLogger(__name__)


async def while_connected(receive: asgi.Receive, work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; cancels it and raises `ClientGone` when the client closes the connection first."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise errors.ClientGone
    finally:
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnected(receive: asgi.Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(responses.Response):
    """Streams what `produce` emits as `data:` events, then `data: [DONE]`."""

    media_type = "text/event-stream"

    def __init__(self, produce: Callable[[Emit], Coroutine[Any, Any, None]]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["Content-Length"]
        self._produce = produce
        self._started = False

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        async def write(data: bytes, *, more: bool = True) -> None:
            try:
                async with asyncio.timeout(MAX_WRITE_S):
                    if not self._started:
                        self._started = True
                        await send(
                            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                        )
                    await send({"type": "http.response.body", "body": data, "more_body": more})
            except (TimeoutError, OSError) as error:
                raise errors.ClientGone from error

        async def emit(event: Mapping[str, object]) -> None:
            await write(_event(event))

        try:
            await while_connected(receive, self._produce(emit))
            await write(b"data: [DONE]\n\n", more=False)
        except Exception as error:
            cause = errors.unwrapped(error)
            if isinstance(cause, errors.ClientGone):
                _LOG.info("the client closed the connection; its request was cancelled")
                return
            errors.log_if_bug(cause)
            if not self._started:
                await errors.response_for(cause)(scope, receive, send)
                return
            with contextlib.suppress(errors.ClientGone):  # gone as well: nobody is left to tell
                await write(_event(errors.event_of(cause)), more=False)


def _event(event: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
