"""Which sessions are let in: a limit on their number and a promise of KV pages to each. Pure arithmetic, torch-free.

A session names the positions that it may come to need and the pages for them are promised when it opens. Promises never
exceed the cache, so an admitted session cannot run out of memory in the middle of an answer. The price is room that
short answers leave unused; what is saved is preemption and recomputing. For who has waited long, room is kept
(`claims`).

With swap space (`swapping`) promises may exceed the cache, as long as every session can be brought in whenever its turn
comes. Be N the cache's pages, W those of the swap space, P all promises and m the largest. To bring in one that needs
p ≤ m, others are taken out one by one until it fits, which leaves more than N - p - m on the accelerator; the rest,
fewer than P - N + p + m pages with those of the one that comes, has to be in the swap space at worst: P ≤ N + W - 2m.
"""

from __future__ import annotations

import collections

from milliner.core import errors
from milliner.engine import claims


class Admission:
    """The account of promised pages; called by the engine on the event loop."""

    def __init__(
        self,
        *,
        num_pages: int,
        page_tokens: int,
        max_sessions: int,
        swap_pages: int = 0,
        enlarged_by: str = "cloud.engine.kvCacheMebibytes",  # the topology's field
    ) -> None:
        self.num_pages = num_pages
        self.swap_pages = swap_pages
        self.page_tokens = page_tokens
        self.max_sessions = max_sessions
        self.num_sessions = 0
        self.promised_pages = 0
        self._promises: collections.Counter[int] = collections.Counter()  # sessions by their pages
        self._claims = claims.Claims()
        self._enlarged_by = enlarged_by

    @property
    def capacity_tokens(self) -> int:
        """Positions of a session that has the whole cache to itself."""
        return self.num_pages * self.page_tokens

    @property
    def promised_share(self) -> float:
        """The share that is promised of what may be, 0 … 1."""
        return self.promised_pages / self._limit_pages()

    def admit(self, max_positions: int, *, now_s: float, claim: str = "") -> int:
        """Promises the pages for `max_positions` and returns how many; `claim` is the same over an opening's tries.

        Raises `TooManySessions` and `KVCacheFull`, which may pass, `PromptTooLong` for what can never fit, and
        `PositionMismatch` for less than one position.
        """
        if max_positions < 1:
            raise errors.PositionMismatch(f"found {max_positions}, expected at least 1", field="max_positions")
        pages = -(-max_positions // self.page_tokens)
        if pages > self.num_pages:
            raise errors.PromptTooLong(
                f"{max_positions} positions were asked for, the whole KV cache holds {self.capacity_tokens}: "
                f"ask for fewer or enlarge {self._enlarged_by}",
                field="max_positions",
            )
        kept_pages = self._claims.pages_kept_from(claim, now_s=now_s)
        try:
            self._check_room(pages, max_positions=max_positions, kept_pages=kept_pages)
        except errors.CapacityError:
            self._claims.refused(claim, pages, now_s=now_s)
            raise
        self._claims.admitted(claim, now_s=now_s)
        self.num_sessions += 1
        self.promised_pages += pages
        self._promises[pages] += 1
        return pages

    def extend(self, pages: int, max_positions: int, *, now_s: float) -> int:
        """Promises a session of `pages` the pages for `max_positions` instead and returns how many, never fewer.

        Raises `KVCacheFull` where that leaves not enough for the others and for who has waited long (*expected*).
        """
        wanted = max(pages, -(-max_positions // self.page_tokens))
        kept_pages = self._claims.pages_kept_from("", now_s=now_s)
        free_pages = self._limit_pages(wanted, kept_pages) - kept_pages - self.promised_pages
        if wanted - pages > max(0, free_pages) or wanted > self.num_pages:
            raise errors.KVCacheFull(
                f"{max_positions} positions need {wanted - pages} pages more, {max(0, free_pages)} are free",
                field="max_positions",
            )
        self.promised_pages += wanted - pages
        self._promises[wanted] += 1
        self._forget_promise(pages)
        return wanted

    def release(self, pages: int) -> None:
        """Takes the promise to one session back."""
        self.num_sessions -= 1
        self.promised_pages -= pages
        self._forget_promise(pages)

    def _forget_promise(self, pages: int) -> None:
        self._promises[pages] -= 1
        if not self._promises[pages]:
            del self._promises[pages]

    def _limit_pages(self, *more: int) -> int:
        """Most pages that may be promised if sessions of `more` pages are to be admitted (see the module)."""
        largest = max((*self._promises, *more), default=0)
        return max(self.num_pages, self.num_pages + self.swap_pages - 2 * largest)

    def _check_room(self, pages: int, *, max_positions: int, kept_pages: int) -> None:
        """Raises `CapacityError`s unless there is room beside what is kept for another: its pages and its session."""
        kept_sessions = 1 if kept_pages else 0
        if self.num_sessions + kept_sessions >= self.max_sessions:
            raise errors.TooManySessions(
                f"{self.num_sessions} of {self.max_sessions} sessions are open"
                f"{' and one is kept for who has waited longer' if kept_sessions else ''}: try again later",
                field="session_id",
            )
        free_pages = self._limit_pages(pages, kept_pages) - self.promised_pages
        if pages > free_pages - kept_pages:
            raise errors.KVCacheFull(
                f"{max_positions} positions need {pages} pages of {self.page_tokens} tokens, "
                f"{max(0, free_pages)} of {self.num_pages + self.swap_pages} are free"
                f"{f' and {kept_pages} kept for who has waited longer' if kept_pages else ''}: try again later",
                field="max_positions",
            )
