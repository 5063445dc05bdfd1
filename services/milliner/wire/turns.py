"""Turns: whoever took one first comes first, however long each has something else to do meanwhile. Event loop only."""

from __future__ import annotations

import asyncio
import collections


class Turn:
    """A place in the order; a context manager that gives it up. Giving up early lets nobody pass those before."""

    __slots__ = ("_line", "_reached")

    def __init__(self, line: collections.deque[Turn]) -> None:
        self._line = line
        self._reached = asyncio.Event()

    async def come(self) -> None:
        """Until all earlier turns were given up."""
        if self._line[0] is not self:
            await self._reached.wait()

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.remove(self)
        if self._line:
            self._line[0]._reached.set()


class Turns:
    """See the module. Each turn taken must be used with `with`."""

    def __init__(self) -> None:
        self._line: collections.deque[Turn] = collections.deque()

    def take(self) -> Turn:
        """The place behind all others."""
        turn = Turn(self._line)
        self._line.append(turn)
        return turn
