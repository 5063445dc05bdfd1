"""How many requests run at once and how many may wait; the rest is refused at once with a time to come back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from milliner.core import errors, ports


class Admission:
    """Slots of one device, first come first served. Runs on the event loop."""

    def __init__(self, *, max_running: int, max_waiting: int, max_wait_s: float, clock: ports.Clock) -> None:
        self._slots = asyncio.Semaphore(max_running)
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._clock = clock
        self.running = 0
        self.waiting = 0

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        """Holds a slot; yields the seconds waited for it. Raises `CapacityError` where none can be had in time."""
        waited_s = await self._acquire()
        self.running += 1
        try:
            yield waited_s
        finally:
            self.running -= 1
            self._slots.release()

    async def _acquire(self) -> float:
        if self._slots.locked() and self.waiting >= self._max_waiting:
            raise errors.CapacityError(f"{self.running} requests run and {self.waiting} wait: try again later")
        start_s = self._clock.now()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise errors.CapacityError(f"no slot became free within {self._max_wait_s:g} s: try again later") from None
        finally:
            self.waiting -= 1
        return self._clock.now() - start_s
