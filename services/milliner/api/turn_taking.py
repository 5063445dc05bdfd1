"""The answers of one request take turns: so many at once as it holds slots, and fewer where the cloud has less room.

An answer that found no room although others of the request have theirs is no reason to refuse the request: it waits
for one of them to end and comes again. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from milliner.core import fair_units
from milliner.telemetry import record
from milliner.telemetry.phases import Phase


class Turns:
    """`slots` turns at once, in the order of asking; one instance per request."""

    def __init__(self, slots: int) -> None:
        self.admitted = 0  # answers under way: the cloud has let them in
        self.ended = 0  # answers that were under way
        self._slots = fair_units.FairUnits(slots)
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def turn(self, request_record: record.RequestRecord) -> AsyncIterator[Turn]:
        """A turn, for as long as the block runs. Where it was to come again, the next waits for an answer's end."""
        if self._slots.fits(1):
            await self._slots.acquire(1)
        else:
            with request_record.phase(Phase.QUEUE, tier="device"):
                await self._slots.acquire(1)
        turn = Turn(self)
        try:
            yield turn
            if turn.refused:  # keeps its slot while it waits: nobody else of the request would fare better
                request_record.end_round()
                with request_record.phase(Phase.QUEUE, tier="device"):
                    await self._until_ended(since=turn.ended_before)
        finally:
            self._slots.release(1)
            await self._end(turn)

    async def _until_ended(self, *, since: int) -> None:
        """Until an answer that was under way has ended; each has deadlines of its own."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.ended > since or not self.admitted)

    async def _end(self, turn: Turn) -> None:
        if turn.under_way:
            self.admitted -= 1
            self.ended += 1
        async with self._changed:
            self._changed.notify_all()


class Turn:
    """One attempt at an answer."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self.under_way = False
        self.refused = False
        self.ended_before = turns.ended

    def admitted(self) -> None:
        """The answer has begun."""
        if not self.under_way:
            self.under_way = True
            self._turns.admitted += 1

    @property
    def may_come_again(self) -> bool:
        """Whether an answer of the request that found room is under way or has ended meanwhile; asked on a refusal."""
        self.refused = not self.under_way and (self._turns.admitted > 0 or self._turns.ended > self.ended_before)
        return self.refused
