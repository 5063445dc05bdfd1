"""The answers of one request take turns: so many at once as it holds slots, and fewer where the cloud has less room.

An answer that found no room although others of the request have theirs, or may still get it, is no reason to refuse
the request: it waits for one of them to end and comes again. Event loop only.
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
        self.trying = 0  # answers that have neither begun nor been refused: the cloud may have let them in already
        self.admitted = 0  # answers under way: their first token is here
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
            await self._changed.wait_for(lambda: self.ended > since or not (self.admitted or self.trying))

    async def _end(self, turn: Turn) -> None:
        turn.settle()
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
        self._trying = True
        turns.trying += 1

    def admitted(self) -> None:
        """The answer has begun."""
        if not self.under_way:
            self.settle()
            self.under_way = True
            self._turns.admitted += 1

    @property
    def may_come_again(self) -> bool:
        """Asked on a refusal: whether another answer of the request has found room meanwhile, or may still find it."""
        self.settle()
        others = self._turns.admitted + self._turns.trying
        self.refused = not self.under_way and (others > 0 or self._turns.ended > self.ended_before)
        return self.refused

    def settle(self) -> None:
        """It is known whether the answer has begun."""
        if self._trying:
            self._trying = False
            self._turns.trying -= 1
