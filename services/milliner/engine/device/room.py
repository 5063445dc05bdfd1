"""Room in a device's KV caches: promised to a session when it opens, so that no answer runs out of it half-way.

A session's caches hold its context (prompt and answer) and, behind it, its draft tree. The tree has two limits: what
is only guessed stops growing at `TREE_TOKENS - PATH_TOKENS`, so that the path of a round can always be packed.
Sessions for which there is no room wait in their order of coming, for a bounded time. Event loop only.
"""

from __future__ import annotations

import asyncio

from milliner.core import errors, fair_units

PAGE_TOKENS = 64
TREE_TOKENS = 1024  # room for a session's draft tree beside its context: 8 drafts on some 100 branches; arbitrary
PATH_TOKENS = 64  # of these, for the path of the next round: twice the longest draft that a topology allows
# A session beside those that clients may have: the probe of readiness, or a device whose clients have taken all their
# room would be called lost. Arbitrary, above what a probe takes.
SHORT_POSITIONS = 64
MAX_WAIT_S = 30.0  # arbitrary; the HTTP slots in front are made to match, so that hardly anybody waits here


class Room:
    """Pages of equally large caches.

    `max_sessions` sessions of `max_positions` positions fit at once and a short one beside them, or more shorter ones.
    """

    def __init__(self, *, max_positions: int, max_sessions: int, max_wait_s: float = MAX_WAIT_S) -> None:
        self.num_pages = max_sessions * _pages(max_positions) + _pages(SHORT_POSITIONS)
        self._max_positions = max_positions
        self._max_wait_s = max_wait_s
        self._pages = fair_units.FairUnits(self.num_pages)

    @property
    def free_pages(self) -> int:
        """Pages that are promised to nobody."""
        return self._pages.free

    async def take(self, num_positions: int) -> int:
        """Promises pages to a session of `num_positions` positions and returns how many, for `give_back`.

        Raises `KVCacheFull` after waiting for `max_wait_s`, `PromptTooLong` for more than any session may have.
        """
        if num_positions > self._max_positions:
            raise errors.PromptTooLong(
                f"{num_positions} positions exceed the context of {self._max_positions}", field="max_tokens"
            )
        pages = _pages(num_positions)
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._pages.acquire(pages)
        except TimeoutError:
            raise errors.KVCacheFull(
                f"the device's KV cache has {self._pages.free} of {self.num_pages} pages free, {pages} are needed, and "
                f"none came free within {self._max_wait_s:g} s: try again later",
                field="max_tokens",
                retry_after_s=self._max_wait_s,
            ) from None
        return pages

    def give_back(self, pages: int) -> None:
        """Takes a promise back."""
        self._pages.release(pages)


def _pages(num_positions: int) -> int:
    return -(-(num_positions + TREE_TOKENS) // PAGE_TOKENS)
