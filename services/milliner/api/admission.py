"""How many answers run at once and how many requests may wait; the rest is refused at once with a time to come back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from milliner.core import errors, fair_units, ports


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """`slots` that a request holds until it ends: as many of its answers may run at once."""

    slots: int
    waited_s: float


class Admission:
    """Slots of one device, first come first served: one for each answer. Runs on the event loop.

    A request of more answers than the device has slots takes them all and works its answers off in turn.
    """

    def __init__(self, *, max_running: int, max_waiting: int, max_wait_s: float, clock: ports.Clock) -> None:
        self._slots = fair_units.FairUnits(max_running)
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._clock = clock
        self.running = 0  # requests
        self.waiting = 0

    @contextlib.asynccontextmanager
    async def slot(self, num_answers: int = 1) -> AsyncIterator[Held]:
        """Holds slots for a request of `num_answers`. Raises `CapacityError` where they cannot be had in time."""
        count = min(num_answers, self._slots.total)
        waited_s = await self._acquire(count)
        self.running += 1
        try:
            yield Held(count, waited_s)
        finally:
            self.running -= 1
            self._slots.release(count)

    async def _acquire(self, count: int) -> float:
        if not self._slots.fits(count) and self.waiting >= self._max_waiting:
            raise errors.CapacityError(f"{self.running} requests run and {self.waiting} wait: try again later")
        start_s = self._clock.now()
        self.waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._slots.acquire(count)
        except TimeoutError:
            raise errors.CapacityError(f"no slot became free within {self._max_wait_s:g} s: try again later") from None
        finally:
            self.waiting -= 1
        return self._clock.now() - start_s
