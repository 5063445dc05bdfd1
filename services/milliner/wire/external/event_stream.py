"""The events of one answer of an external engine as JSON, each within its time. Whose server it is gives the deadlines
and makes errors of what goes wrong (`server`). Event loop only.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, Self

from milliner.wire.external import events, failures


class Server(Protocol):
    """Where the events come from."""

    @property
    def where(self) -> str: ...

    def deadline_s(self) -> float:
        """When it is given up for a token that does not come, counted from now."""
        ...

    async def watched(self, waiting: asyncio.Future[Any], *, deadline_s: float) -> Any:
        """The result of `waiting`, if it comes in time."""
        ...


class EventStream:
    """The events of one answer, in order. Who reads says when one brought a token, and when nothing is missing."""

    def __init__(self, server: Server, chunks: AsyncGenerator[bytes, None]) -> None:
        self._server = server
        self._chunks = chunks
        self._parser = events.EventParser()
        self._found: collections.deque[str] = collections.deque()
        self._deadline_s = server.deadline_s()
        self.is_finished = False

    def progressed(self) -> None:
        """A token came: there is time for the next."""
        self._deadline_s = self._server.deadline_s()

    def finished(self) -> None:
        """The server has given all that it was asked for: what else it sends is short and of no interest."""
        self.is_finished = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Mapping[str, Any]:
        while not self._found:
            waiting = asyncio.ensure_future(anext(self._chunks, None))
            chunk = await self._server.watched(waiting, deadline_s=self._deadline_s)
            if chunk is None:
                raise StopAsyncIteration
            self._found.extend(self._parser.feed(chunk))
        data = self._found.popleft()
        if data == events.DONE:
            self.finished()
            raise StopAsyncIteration
        event = events.document(data)
        if (error := failures.of_event(event, where=self._server.where)) is not None:
            raise error
        return event
