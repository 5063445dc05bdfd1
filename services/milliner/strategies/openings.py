"""The line of a device's requests for which no replica has room: first come, first served, for a bounded time.

A refused opening is tried again until the cloud admits it: by the first of the line alone, so that one which needs much
room is not overtaken by later ones that need little, at growing intervals up to the replicas' own hint, and at once
when a session of this device has ended. Whoever comes while others wait joins the end of the line. Event loop only;
time is the caller's clock.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Awaitable, Callable

from milliner.core import errors, ports, tasks

MAX_WAIT_S = 30.0  # arbitrary: as long as for room on the device itself
_FIRST_DELAY_S = 0.05  # arbitrary: the cloud hears of an ended session a little later than the device
_LAST_DELAY_S = 1.0  # arbitrary: room that other devices leave is found soon


class Openings:
    """See the module; one per device, shared by all its requests."""

    def __init__(self, *, max_wait_s: float = MAX_WAIT_S) -> None:
        self._max_wait_s = max_wait_s
        self._line: collections.deque[asyncio.Event] = collections.deque()  # each set when its turn may have come

    @property
    def crowded(self) -> bool:
        """Whether requests wait."""
        return bool(self._line)

    def freed(self) -> None:
        """A session of this device has ended: the cloud may have room."""
        if self._line:
            self._line[0].set()

    async def open(self, attempt: Callable[[], Awaitable[None]], *, clock: ports.Clock) -> None:
        """Calls `attempt` in turn until the cloud does not refuse it for lack of room.

        Raises the last refusal, a `CapacityError`, when the wait is over; every other error of `attempt` at once.
        """
        deadline_s = clock.now() + self._max_wait_s
        turn = asyncio.Event()
        self._line.append(turn)
        try:
            while self._line[0] is not turn:
                if not await tasks.set_within(turn, deadline_s - clock.now(), clock=clock):
                    raise errors.CapacityError(
                        f"the cloud has no room and {self._line.index(turn)} requests of this device that came before "
                        f"wait for it; waited {self._max_wait_s:g} s: try again later"
                    )
                turn.clear()
            await self._try_again_and_again(attempt, turn, deadline_s=deadline_s, clock=clock)
        finally:
            first = self._line[0] is turn
            self._line.remove(turn)
            if first:
                self.freed()  # the next one's turn

    async def _try_again_and_again(
        self, attempt: Callable[[], Awaitable[None]], turn: asyncio.Event, *, deadline_s: float, clock: ports.Clock
    ) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            turn.clear()
            try:
                await attempt()
            except errors.CapacityError as refusal:
                left_s = deadline_s - clock.now()
                if left_s <= 0.0:
                    raise
                hint_s = max(_FIRST_DELAY_S, refusal.retry_after_s)
                news = await tasks.set_within(turn, min(delay_s, hint_s, left_s), clock=clock)
                delay_s = _FIRST_DELAY_S if news else min(2 * delay_s, _LAST_DELAY_S)
            else:
                return
