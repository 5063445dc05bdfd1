"""Where sessions' KV caches lie: on the accelerator, or moved to host memory to make room. Pure account, torch-free.

A session on the accelerator (a *resident* one) has all pages there that it was promised, so that it cannot run out of
them while it is computed. One that is away takes as many pages of the swap space as it has filled, and is not computed
until it is back. Who goes and who comes is decided by `swapping`; a session that never was computed moves without a
copy. Without swap space every session is resident, from admission to its end.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milliner.engine import session


@dataclasses.dataclass(slots=True)
class Residency:
    """The account. `num_pages` are on the accelerator, `swap_pages` in host memory; `moved_*` only ever grow."""

    num_pages: int
    swap_pages: int
    page_tokens: int
    resident_pages: int = 0  # promised to sessions that are on the accelerator
    swapped_pages: int = 0
    swapped_sessions: int = 0  # those that have pages in the swap space
    moved_out_pages: int = 0
    moved_in_pages: int = 0

    @property
    def free_pages(self) -> int:
        """Pages of the accelerator that no resident session was promised; kept prefixes may lie there."""
        return self.num_pages - self.resident_pages

    @property
    def free_swap_pages(self) -> int:
        return self.swap_pages - self.swapped_pages

    def filled_pages(self, owner: session.Session) -> int:
        """Pages that a move of the session copies."""
        return -(-owner.kv_tokens // self.page_tokens)

    def admitted(self, owner: session.Session, *, pinned_pages: int) -> None:
        """A new session is resident if there is room; else it comes when its turn does. `pinned_pages` are taken by
        prefixes that others are about to copy."""
        owner.resident = owner.pages <= self.free_pages - pinned_pages
        if owner.resident:
            self.resident_pages += owner.pages

    def take_out(self, owner: session.Session) -> None:
        """The session leaves the accelerator; there is swap space for what it has filled."""
        filled = self.filled_pages(owner)
        assert owner.resident and filled <= self.free_swap_pages, "the caller checks for room"
        owner.resident, owner.swapped_pages = False, filled
        self.resident_pages -= owner.pages
        self.moved_out_pages += filled
        self._swap(filled)

    def bring_in(self, owner: session.Session) -> None:
        """The session comes back, or for the first time; there is room for all that it was promised."""
        assert not owner.resident and owner.pages <= self.free_pages, "the caller checks for room"
        self.resident_pages += owner.pages
        self.moved_in_pages += owner.swapped_pages
        self._swap(-owner.swapped_pages)
        owner.resident, owner.swapped_pages = True, 0

    def ended(self, owner: session.Session) -> None:
        """The session holds nothing any more."""
        if owner.resident:
            self.resident_pages -= owner.pages
        self._swap(-owner.swapped_pages)
        owner.swapped_pages = 0

    def _swap(self, pages: int) -> None:
        self.swapped_pages += pages
        self.swapped_sessions += (pages > 0) - (pages < 0)
