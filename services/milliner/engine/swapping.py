"""Which KV caches move between accelerator and host memory before a batch, and which meanwhile. Pure planner.

Preemption at every token leaves behind sequences that hold pages and do not run (FastServe, arXiv 2305.05920). When
pages are short they are moved to host memory:

1. The sequences that the policy has chosen get the pages that their frames need, the most urgent first; those that are
   away come in. Free pages are taken, then those of sessions that wait for nothing, least recently used first, then
   those of less urgent ones, the least urgent first. What finds no room waits.
2. While the batch is computed, those that are next in the queue come in, so that they need not wait for the copy when
   it is their turn (`LOOKAHEAD`); who is next is asked as the queue will be once this batch has left them out. They
   displace nobody who is in the batch or ahead of them.

Admission promises no more than what lets the most urgent one always find its pages (`admission`). What may stand in its
way for one batch are prefixes that others are about to copy (`reuse`). Event loop only, between batches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping

from milliner.engine import residency, reuse, session, work

# Sequences behind the batch that are brought in ahead of their turn. Arbitrary: one or two of them replace what ends or
# sinks in a batch, more would displace what may be needed as soon.
LOOKAHEAD = 4


class Lineup:
    """The engine's sessions in the order in which they have a claim to the accelerator's pages; found out on demand.

    `rank` gives those that wait, the most urgent first.
    """

    def __init__(self, sessions: Collection[session.Session], rank: Callable[[], list[session.Session]]) -> None:
        self._sessions = sessions
        self._rank = rank

    @functools.cached_property
    def ranked(self) -> list[session.Session]:
        return self._rank()

    @functools.cached_property
    def idle(self) -> list[session.Session]:
        """Those that wait for nothing, least recently used first."""
        return sorted((owner for owner in self._sessions if not owner.queue), key=lambda owner: owner.last_used_s)

    def behind(self, at: int, *, running: Collection[str] = ()) -> Iterable[session.Session]:
        """Who gives way to the one that is ranked `at`, first to last."""
        less_urgent = (owner for owner in reversed(self.ranked[at + 1 :]) if owner.id not in running)
        return itertools.chain(self.idle, less_urgent)


class Swapping:
    """See the module; one per engine."""

    def __init__(self, places: residency.Residency, kept: reuse.Reuse) -> None:
        self._places = places
        self._kept = kept

    def place(self, ends: Mapping[str, int], lineup: Lineup) -> tuple[set[str], list[work.Move]]:
        """Gives sessions the pages that they need up to where their frames end, by their ids; returns those that found
        no room, and the moves that have to be made before the batch."""
        moves, displaced, refused = list[work.Move](), set[str](), set[str]()
        for at, owner in enumerate(lineup.ranked):
            if owner.id not in ends:
                continue
            found = None
            if owner.id not in displaced:
                found = self._give(owner, self._places.pages(ends[owner.id]), lineup.behind(at))
            if found is None:
                refused.add(owner.id)
                continue
            displaced.update(move.session_id for move in found if move.out)
            moves += found
        return refused, moves

    def fits(self, ends: Collection[tuple[session.Session, int]]) -> bool:
        """As `place`, if nobody has to move for it; otherwise nothing changes."""
        more = sum(max(0, self._places.pages(end) - owner.held_pages) for owner, end in ends)
        if more > self._room or any(owner.away for owner, _ in ends):
            return False
        for owner, end in ends:
            self._places.hold(owner, self._places.pages(end))
        return True

    def ahead(self, lineup: Lineup, *, running: Collection[str]) -> list[work.Move]:
        """Moves for those that are next, to be made while the `running` ids are computed."""
        if not self._places.swapped_sessions:
            return []
        moves, left = list[work.Move](), LOOKAHEAD
        for at, owner in enumerate(lineup.ranked):
            if owner.id in running:
                continue
            if left == 0:
                break
            left -= 1
            if owner.away:
                moves += self._give(owner, owner.swapped_pages, lineup.behind(at, running=running)) or []
        return moves

    @property
    def _room(self) -> int:
        return self._places.free_pages - self._kept.pinned_pages

    def _give(
        self, owner: session.Session, pages: int, candidates: Iterable[session.Session]
    ) -> list[work.Move] | None:
        """Takes out as many `candidates` as need be, in their order; None, changing nothing, if that is not enough."""
        # A frame may begin well before the end of what was moved out, and all of that comes in.
        more = max(pages, owner.swapped_pages) - owner.held_pages
        room, swap_room = self._room, self._places.free_swap_pages
        leaving = []
        for candidate in candidates:
            if room >= more:
                break
            filled = self._places.pages(candidate.kv_tokens)
            if candidate.held_pages and candidate.kv.adoption is None and filled <= swap_room:
                leaving.append(candidate)
                room, swap_room = room + candidate.held_pages, swap_room - filled
        if room < more:
            return None
        moves = [_move(each, out=True) for each in leaving]
        for each in leaving:
            self._places.take_out(each)
        if owner.away:
            moves.append(_move(owner, out=False))
            self._places.bring_in(owner)
        self._places.hold(owner, pages)
        self._kept.give_way()  # now: behind the next move less may be held, but this one is made before it
        return moves


def _move(owner: session.Session, *, out: bool) -> work.Move:
    return work.Move(session_id=owner.id, kv=owner.kv, num_tokens=owner.kv_tokens, out=out)
