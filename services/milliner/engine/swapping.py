"""Which KV caches move between accelerator and host memory before a batch, and which meanwhile. Pure planner.

Preemption at every token leaves behind sequences that hold pages and do not run (FastServe, arXiv 2305.05920). When
pages are short they are moved to host memory:

1. The sequences that the policy has chosen come in, the most urgent first. Each takes free pages, then those of
   sessions that wait for nothing, least recently used first, then those of less urgent ones, the least urgent first.
2. While the batch is computed, those that are next in the queue come in the same way, so that they need not wait for
   the copy when it is their turn (`LOOKAHEAD`). They displace nobody who is in the batch or ahead of them.
3. What finds no room waits; the policy plans again with what is there.

Admission promises no more than what lets the most urgent one always come in (`admission`). The one exception is a
session that is about to copy a kept prefix: it stays until it was computed, and is resident, so it can be.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Sequence

from milliner.engine import residency, reuse, session, work

# Sequences behind the batch that are brought in ahead of their turn. Arbitrary: one or two of them replace what ends or
# sinks in a batch, more would displace what may be needed as soon.
LOOKAHEAD = 4


class Swapping:
    """See the module; one per engine, on the event loop, between batches."""

    def __init__(self, places: residency.Residency, kept: reuse.Reuse) -> None:
        self._places = places
        self._kept = kept

    @property
    def enabled(self) -> bool:
        return self._places.swap_pages > 0

    def before(
        self, ranked: Sequence[session.Session], idle: Iterable[session.Session], *, chosen: Container[str]
    ) -> list[work.Move]:
        """Moves that make the `chosen` ids resident as far as they fit. `ranked` are those that wait, most urgent
        first, `idle` the others."""
        spare = sorted(idle, key=lambda owner: owner.last_used_s)
        moves, displaced = list[work.Move](), set[str]()
        for at, owner in enumerate(ranked):
            if owner.id in chosen and not owner.resident and owner.id not in displaced:
                found = self._bring_in(owner, itertools.chain(spare, reversed(ranked[at + 1 :])))
                displaced.update(move.session_id for move in found if move.out)
                moves += found
        return moves

    def ahead(
        self, ranked: Sequence[session.Session], idle: Iterable[session.Session], *, running: Container[str]
    ) -> list[work.Move]:
        """Moves for those that are next, to be made while the `running` ids are computed."""
        spare = sorted(idle, key=lambda owner: owner.last_used_s)
        moves = list[work.Move]()
        following = [owner for owner in ranked if owner.id not in running]
        for at, owner in enumerate(following[:LOOKAHEAD]):
            if not owner.resident:
                moves += self._bring_in(owner, itertools.chain(spare, reversed(following[at + 1 :])))
        return moves

    def _bring_in(self, owner: session.Session, candidates: Iterable[session.Session]) -> list[work.Move]:
        """Takes out as many `candidates` as need be, in their order, then brings the session in; nothing if it does
        not fit all the same."""
        room, swap_room = self._places.free_pages - self._kept.pinned_pages, self._places.free_swap_pages
        leaving = []
        for candidate in candidates:
            if room >= owner.pages:
                break
            filled = self._places.filled_pages(candidate)
            if candidate.resident and candidate.kv.adoption is None and filled <= swap_room:
                leaving.append(candidate)
                room, swap_room = room + candidate.pages, swap_room - filled
        if room < owner.pages:
            return []
        moves = [_move(each, out=True) for each in leaving] + [_move(owner, out=False)]
        for each in leaving:
            self._places.take_out(each)
        self._places.bring_in(owner)
        return [move for move in moves if move is not None]


def _move(owner: session.Session, *, out: bool) -> work.Move | None:
    """None for a session that the backend does not know yet: there is nothing to copy."""
    if not owner.computed:
        return None
    return work.Move(session_id=owner.id, kv=owner.kv, num_tokens=owner.kv_tokens, out=out)
