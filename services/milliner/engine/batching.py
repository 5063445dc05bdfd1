"""The next batch of an engine: what the policy chooses of what waits, and which KV caches have to move for it.

Event loop only, between two batches: it marks frames as running and books the moves. `engine` computes the batch.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence

from milliner.core import compute, types
from milliner.engine import reuse, scheduler, session, swapping, work

Waiting = tuple[session.Session, session.Pending]


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A piece of a session's frame."""

    owner: session.Session
    frame: session.Pending
    piece: work.Piece


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Pieces of a session lie side by side, in their order; caches move before they are computed, or meanwhile."""

    entries: tuple[Entry, ...]
    adopters: tuple[session.Session, ...]
    swaps: work.Swaps
    service_floor: int  # counters of sessions that become busy are lifted to it

    @property
    def pieces(self) -> list[work.Piece]:
        return [entry.piece for entry in self.entries]

    @property
    def num_tokens(self) -> int:
        return sum(entry.piece.num_tokens for entry in self.entries)

    def tokens_by_session(self) -> dict[str, int]:
        """How many of its tokens are of which session, by its id."""
        found: collections.Counter[str] = collections.Counter()
        for entry in self.entries:
            found[entry.owner.id] += entry.piece.num_tokens
        return found

    def modelled_s(self, cost: compute.BatchCost, outcome: work.BatchOutcome) -> float:
        """What the batch takes on an emulated accelerator; one of which no frame could be read never reaches it."""
        if not outcome.num_tokens:
            return 0.0
        steps = sum(piece.num_tokens for piece in self.pieces if piece.job.work.kind is types.FrameKind.VERIFY)
        return cost.batch_s(outcome.num_tokens, num_steps=min(steps, outcome.num_tokens))


def plan(
    sessions: Collection[session.Session],
    *,
    policy: scheduler.SchedulingPolicy,
    budget_tokens: int,
    swaps: swapping.Swapping,
    kept: reuse.Reuse,
) -> Batch | None:
    """The next batch; None if nothing waits. One without entries only makes room for the next."""
    waiting = {frame.ticket: (owner, frame) for owner in sessions for frame in owner.queue}
    if not waiting:
        return None
    views = [owner.view(frame) for owner, frame in waiting.values()]
    lineup = swapping.Lineup(sessions, lambda: [waiting[view.ticket][0] for view in policy.rank(views)])
    after = swapping.Lineup(sessions, lambda: [waiting[view.ticket][0] for view in policy.rank(_skipped(views))])
    shares, before = list[scheduler.Share](), list[work.Move]()
    fitting = views
    while fitting:
        shares = policy.plan(fitting, budget_tokens=budget_tokens)
        assert shares, "a policy takes at least one of what waits"
        refused, moves = _place(shares, waiting, lineup=lineup, swaps=swaps)
        before += moves
        if not refused:
            break
        fitting, shares = [view for view in fitting if view.session_id not in refused], []
    ahead = swaps.ahead(after, running={waiting[share.ticket][0].id for share in shares})
    adopters = kept.take_adopters()
    if not (shares or before or ahead or adopters):
        return None
    swapped = work.Swaps(adopt=tuple(owner.kv for owner in adopters), before=tuple(before), ahead=tuple(ahead))
    return Batch(_entries(shares, waiting), adopters, swapped, scheduler.service_floor(views))


def _skipped(views: Sequence[scheduler.Waiting]) -> list[scheduler.Waiting]:
    """What waits as it looks once a batch has left it out, so that those whose patience ends then come in before."""
    return [dataclasses.replace(view, skipped_batches=view.skipped_batches + 1) for view in views]


def _place(
    shares: Sequence[scheduler.Share],
    waiting: Mapping[int, Waiting],
    *,
    lineup: swapping.Lineup,
    swaps: swapping.Swapping,
) -> tuple[set[str], list[work.Move]]:
    """Room for what the shares compute: ids of the sessions that found none, and what has to move."""
    ends: dict[str, tuple[session.Session, int]] = {}
    for share in shares:
        owner, frame = waiting[share.ticket]
        ends[owner.id] = owner, frame.work.start_pos + frame.computed_tokens + share.num_tokens
    if swaps.fits(ends.values()):
        return set(), []
    return swaps.place({name: end for name, (_, end) in ends.items()}, lineup)


def _entries(shares: Sequence[scheduler.Share], waiting: Mapping[int, Waiting]) -> tuple[Entry, ...]:
    for owner, frame in waiting.values():
        frame.skipped_batches += frame is owner.queue[0]  # those behind it wait for it, not for the others
    entries = []
    for share in shares:
        owner, frame = waiting[share.ticket]
        frame.skipped_batches = 0
        frame.in_batch = True
        owner.computed = True
        owner.served_tokens += share.num_tokens
        entries.append(Entry(owner, frame, work.Piece(frame.job, frame.computed_tokens, share.num_tokens)))
    return tuple(sorted(entries, key=lambda entry: (entry.owner.order, entry.frame.ticket)))
