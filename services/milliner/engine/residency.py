"""Where sessions' KV caches lie: on the accelerator, or moved to host memory to make room. Pure account, torch-free.

A session *holds* pages of the accelerator: as many as its furthest frame so far has needed, never more than it was
promised (`admission`). One that is *away* has what it had filled in the swap space and holds nothing until it is back.
Who goes and who comes is decided by `swapping`. Without swap space nobody ever has to go.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from milliner.core import types

if TYPE_CHECKING:
    from milliner.engine import session


@dataclasses.dataclass(slots=True)
class Residency:
    """The account. `num_pages` are on the accelerator, `swap_pages` in host memory; `moved_*` only ever grow."""

    num_pages: int
    swap_pages: int
    page_tokens: int
    held_pages: int = 0
    swapped_pages: int = 0
    swapped_sessions: int = 0
    moved_out_pages: int = 0
    moved_in_pages: int = 0

    @property
    def free_pages(self) -> int:
        """Pages of the accelerator that no session holds; kept prefixes may lie there."""
        return self.num_pages - self.held_pages

    @property
    def free_swap_pages(self) -> int:
        return self.swap_pages - self.swapped_pages

    def report(self, *, page_bytes: int) -> types.SwapReport:
        """What lies in host memory now, and what was moved so far."""
        return types.SwapReport(
            sequences=self.swapped_sessions,
            used_bytes=self.swapped_pages * page_bytes,
            moved_out_bytes=self.moved_out_pages * page_bytes,
            moved_in_bytes=self.moved_in_pages * page_bytes,
        )

    def pages(self, num_tokens: int) -> int:
        """Pages that so many tokens take."""
        return -(-num_tokens // self.page_tokens)

    def hold(self, owner: session.Session, pages: int) -> None:
        """The session holds `pages` at least from now on."""
        assert not owner.away, "who is away comes in first"
        more = max(0, pages - owner.held_pages)
        assert more <= self.free_pages, "the caller checks for room"
        owner.held_pages += more
        self.held_pages += more

    def take_out(self, owner: session.Session) -> None:
        """What the session has filled goes to the swap space, where there is room for it."""
        filled = self.pages(owner.kv_tokens)
        assert not owner.away and filled <= self.free_swap_pages, "the caller checks for room"
        self.held_pages -= owner.held_pages
        owner.away, owner.held_pages, owner.swapped_pages = True, 0, filled
        self.swapped_sessions += 1
        self.swapped_pages += filled
        self.moved_out_pages += filled

    def bring_in(self, owner: session.Session) -> None:
        """The session is back, and holds what it has filled."""
        assert owner.away
        self.swapped_sessions -= 1
        self.swapped_pages -= owner.swapped_pages
        self.moved_in_pages += owner.swapped_pages
        filled, owner.away, owner.swapped_pages = owner.swapped_pages, False, 0
        self.hold(owner, filled)

    def ended(self, owner: session.Session) -> None:
        """The session counts no longer; what it held is still written in it."""
        self.held_pages -= owner.held_pages
        self.swapped_pages -= owner.swapped_pages
        self.swapped_sessions -= owner.away
