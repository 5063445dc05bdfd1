"""A counted resource given out first come, first served: HTTP slots, pages of a cache. Event loop only, no clock.

Unlike a semaphore it is taken several units at a time, and a large wish is never overtaken by small ones that came
later, so nobody starves. Deadlines are the caller's: a cancelled `acquire` leaves no trace.
"""

from __future__ import annotations

import asyncio
import collections


class FairUnits:
    """`total` units, of which `free` are nobody's."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._waiting: collections.deque[tuple[int, asyncio.Future[None]]] = collections.deque()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def fits(self, count: int) -> bool:
        """Whether `acquire(count)` would not wait."""
        return not self._waiting and count <= self.free

    async def acquire(self, count: int) -> None:
        """Takes `count` units once all who came before have theirs; more than `total` is a bug of the caller."""
        assert 0 < count <= self.total, "more can never be had"
        if self.fits(count):
            self.free -= count
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (count, turn)
        self._waiting.append(place)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(place)
                self._serve()  # those behind may fit where this one did not
            else:
                self.release(count)  # granted at the very moment of giving up
            raise

    def release(self, count: int) -> None:
        """Gives `count` units back."""
        self.free += count
        assert self.free <= self.total, "units were given back twice"
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            count, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= count
                turn.set_result(None)
