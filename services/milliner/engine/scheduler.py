"""Which waiting frames form the next batch: a pure planner, called on the event loop before every batch.

The policy of this module, `VerifyFirst`:

1. Frames of one session are served in order, so a session competes with its oldest frame.
2. Urgency: verification, then last chunks (they end a prompt: a first token waits for them), then other chunks. A
   session whose oldest frame `PATIENCE_BATCHES` batches in a row left out overtakes all, for at most a quarter of the
   budget (in one frame or in several small ones): nobody starves, and verification goes on beside it.
3. Among equally urgent sessions the one that was served the fewest tokens comes first (virtual token counter,
   arXiv 2401.00588: a session that was idle is lifted to the least served of the busy ones, see `service_floor`).
4. Chunks may be split at the end of the token budget and go on in the next batch. Verification frames are split only
   where one exceeds the whole budget: half a verification is of no use to anyone.
5. When a session's frame is taken whole, its next one joins the same batch if it continues it: a backlog of small
   chunks is worked off in one pass.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
from collections.abc import Sequence
from typing import Protocol

from milliner.core import types

# How often a frame may be left out before it overtakes, and the part of the budget it then may use. Arbitrary: at
# 30 ms a batch a chunk waits a quarter of a second at most while verification alone fills every batch.
PATIENCE_BATCHES = 8
OVERDUE_SHARE = 4

_OVERDUE_URGENCY = -1
_URGENCY = {types.FrameKind.VERIFY: 0, types.FrameKind.LAST_CHUNK: 1, types.FrameKind.CHUNK: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting frame as a policy sees it. `ticket` names it in the plan; lower tickets came earlier."""

    ticket: int
    session_id: str
    kind: types.FrameKind
    num_tokens: int  # still to be computed
    served_tokens: int  # of the session, virtual (see `service_floor`)
    skipped_batches: int = 0  # batches since it came in which it got nothing
    joins_previous: bool = False  # continues the session's frame before it without truncation
    order: int = 0  # of the session's opening
    prompt_tokens: int = 0  # of the session: in its chunks, those to come included where they are known
    generated: int = 0  # of the session: its verification frames so far, for whole models the tokens it went on from
    away: bool = False  # the session's cache lies in host memory (`swapping`)


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Tokens that the next batch computes of one frame."""

    ticket: int
    num_tokens: int


class SchedulingPolicy(Protocol):
    """Plans a batch. Keeps no state of its own, so that plans can be tested and simulated as plain values."""

    def plan(self, waiting: Sequence[Waiting], *, budget_tokens: int) -> list[Share]:
        """Shares for the next batch: at least one if anything waits, at most `budget_tokens` tokens together.

        `waiting` lists each session's frames in their order; the shares of a session must come in that order too, and
        only the last of them may be partial.
        """
        ...

    def rank(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """The oldest frame of each session, the most urgent first: who keeps its cache where pages are short."""
        ...


class VerifyFirst:
    """The default policy; the module's docstring says how it chooses."""

    def plan(self, waiting: Sequence[Waiting], *, budget_tokens: int) -> list[Share]:
        queues: dict[str, collections.deque[Waiting]] = {}
        for frame in waiting:
            queues.setdefault(frame.session_id, collections.deque()).append(frame)
        ahead_tokens = {  # of overdue sessions: what they may still take before the others
            name: max(1, budget_tokens // OVERDUE_SHARE)
            for name, queue in queues.items()
            if queue[0].skipped_batches >= PATIENCE_BATCHES
        }
        heads = [_rank(queue[0], overdue=name in ahead_tokens) for name, queue in queues.items()]
        heapq.heapify(heads)
        shares: list[Share] = []
        left_tokens = budget_tokens
        while heads and left_tokens > 0:
            *_, session_id = heapq.heappop(heads)
            frame = queues[session_id].popleft()
            allowed_tokens = min(left_tokens, ahead_tokens.get(session_id, left_tokens))
            num_tokens = _fitting(
                frame, allowed_tokens=allowed_tokens, left_tokens=left_tokens, budget_tokens=budget_tokens
            )
            if num_tokens == 0:
                continue
            shares.append(Share(frame.ticket, num_tokens))
            left_tokens -= num_tokens
            if session_id in ahead_tokens:
                ahead_tokens[session_id] -= num_tokens
                if ahead_tokens[session_id] <= 0:
                    del ahead_tokens[session_id]
            queue = queues[session_id]
            if num_tokens == frame.num_tokens and queue and queue[0].joins_previous:
                heapq.heappush(heads, _rank(queue[0], overdue=session_id in ahead_tokens))
        return shares

    def rank(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """See `SchedulingPolicy.rank`."""
        return sorted(
            oldest(waiting), key=lambda frame: _rank(frame, overdue=frame.skipped_batches >= PATIENCE_BATCHES)
        )


def oldest(waiting: Sequence[Waiting]) -> list[Waiting]:
    """The oldest frame of each session: those behind it wait for it."""
    found: dict[str, Waiting] = {}
    for frame in waiting:
        found.setdefault(frame.session_id, frame)
    return list(found.values())


def service_floor(waiting: Sequence[Waiting]) -> int:
    """Where the counter of a session that becomes busy starts at least: idling earns no credit over those who work."""
    return min(frame.served_tokens for frame in waiting)


def _rank(frame: Waiting, *, overdue: bool) -> tuple[int, int, int, str]:
    return (_OVERDUE_URGENCY if overdue else _URGENCY[frame.kind], frame.served_tokens, frame.ticket, frame.session_id)


def _fitting(frame: Waiting, *, allowed_tokens: int, left_tokens: int, budget_tokens: int) -> int:
    """Tokens of `frame` that go into what is left of the budget; 0 leaves it for the next batch."""
    if frame.kind is types.FrameKind.VERIFY and frame.num_tokens <= budget_tokens:
        return frame.num_tokens if frame.num_tokens <= left_tokens else 0
    return min(frame.num_tokens, allowed_tokens)
