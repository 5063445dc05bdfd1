"""A session: position, order of its frames, and the results that make frames idempotent. Event loop only, torch-free.

The rules of a frame (round, commit_pos, start_pos, num_tokens), checked when it arrives against the position that the
session will have when all frames before it are done (`planned_len`), so that chunks may be sent without waiting:

- A frame known by (round, start_pos) in the current round is a repeat: it gets the first one's result and changes
  nothing. The same name with other content is refused.
- A frame of an older round is late: refused, changing nothing.
- The first frame of a new round truncates the session to `commit_pos` and starts there.
- Further frames of the round continue where the last one ended; their `commit_pos` truncates nothing.
- A frame that fails or is abandoned takes the session back to the frame's own start; frames queued behind it that
  continue it are refused, since the positions before them do not exist.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from typing import NoReturn

from milliner.core import errors, types
from milliner.engine import prefix_cache, scheduler
from milliner.engine import work as work_module


class Pending:
    """A frame on its way through the engine."""

    __slots__ = (
        "abandoned",
        "arrived_s",
        "batched_tokens",
        "codec_s",
        "compute_s",
        "computed_tokens",
        "future",
        "in_batch",
        "job",
        "skipped_batches",
        "ticket",
        "waiters",
        "work",
    )

    def __init__(self, *, work: work_module.Work, job: work_module.Job, ticket: int, arrived_s: float) -> None:
        self.work = work
        self.job = job
        self.ticket = ticket
        self.arrived_s = arrived_s
        self.future: asyncio.Future[work_module.Done] = asyncio.get_running_loop().create_future()
        self.future.add_done_callback(_mark_retrieved)
        self.waiters = 0  # callers that wait for the future; a repeat of the frame adds one
        self.computed_tokens = 0
        self.compute_s = 0.0
        self.codec_s = 0.0
        self.batched_tokens = 0
        self.skipped_batches = 0
        self.in_batch = False  # a piece of it is on the executor now
        self.abandoned = False  # nobody waits any more

    @property
    def left_tokens(self) -> int:
        return self.work.num_tokens - self.computed_tokens

    def book(
        self, piece: work_module.Piece, outcome: work_module.PieceOutcome, *, duration_s: float, batched_tokens: int
    ) -> None:
        """Takes down what a finished batch did for this frame."""
        self.in_batch = False
        self.computed_tokens += piece.num_tokens
        self.compute_s += max(0.0, duration_s - outcome.codec_s)
        self.codec_s += outcome.codec_s
        self.batched_tokens = max(self.batched_tokens, batched_tokens)

    def resolve(self, payload: types.Payload | None, *, now_s: float) -> work_module.Done:
        """Ends the frame well. What is neither compute nor codec of the time in the engine counts as queueing."""
        queue_s = max(0.0, now_s - self.arrived_s - self.compute_s - self.codec_s)
        done = work_module.Done(
            kv_len=self.work.end_pos,
            payload=payload,
            queue_s=queue_s,
            compute_s=self.compute_s,
            batched_tokens=self.batched_tokens,
            codec_s=self.codec_s,
        )
        self.future.set_result(done)
        return done

    def forget_payload(self, kv: work_module.KVHandle) -> None:
        """Drops the frame's bytes and tensors; what stays is what a repeat is recognised by, and its answer."""
        self.work = dataclasses.replace(self.work, decode=_spent, encode=_spent, continuation=None, watch=None)
        self.job = work_module.Job(self.work, kv)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)
            if self.work.continuation is not None:
                self.work.continuation.failed(error)


class Session:
    """What the engine knows of one session: its KV cache's handle, its position, its queue and its last results."""

    __slots__ = (
        "away",
        "computed",
        "expected_prompt_tokens",
        "failed",
        "frames",
        "generated",
        "held_pages",
        "id",
        "kv",
        "last_used_s",
        "order",
        "pages",
        "pinned",
        "planned_len",
        "prompt_tokens",
        "queue",
        "round",
        "served_tokens",
        "swapped_pages",
    )

    def __init__(self, *, session_id: str, max_positions: int, pages: int, order: int, now_s: float) -> None:
        self.id = session_id
        self.order = order  # of opening; orders the segments of a batch
        self.kv = work_module.KVHandle(max_positions)
        self.pages = pages  # promised at admission
        self.pinned: prefix_cache.Kept | None = None  # what it will copy from with the next batch
        self.failed = False  # a frame of it failed: what its cache holds is not for others
        self.computed = False  # a frame of it was in a batch, so that it may hold pages
        self.held_pages = 0  # on the accelerator (`residency`)
        self.away = False  # its cache is in host memory
        self.swapped_pages = 0  # there
        self.round = -1  # of the youngest frame taken in
        self.planned_len = 0  # kv_len once everything in the queue is done
        self.queue: collections.deque[Pending] = collections.deque()
        self.frames: dict[int, Pending] = {}  # of the current round by start_pos, done ones included
        self.last_used_s = now_s
        self.served_tokens = 0  # virtual: see scheduler.service_floor
        self.prompt_tokens = 0  # in chunks
        self.expected_prompt_tokens = 0  # to be computed, where that is known when it is opened
        self.generated = 0  # verification frames

    @property
    def kv_tokens(self) -> int:
        """Positions that are computed and not rolled back, between two batches."""
        if not self.queue:
            return self.planned_len
        return self.queue[0].work.start_pos + self.queue[0].computed_tokens

    def repeated(self, work: work_module.Work) -> Pending | None:
        """The frame that `work` repeats, if any; raises `PositionMismatch` for late and contradictory frames."""
        if work.round < self.round:
            raise errors.PositionMismatch(
                f"the frame is of round {work.round}, the session is at round {self.round}: late frames change nothing",
                field="round",
            )
        known = self.frames.get(work.start_pos) if work.round == self.round else None
        if known is None:
            return None
        same = (known.work.commit_pos, known.work.num_tokens) == (work.commit_pos, work.num_tokens)
        if not same:
            raise errors.PositionMismatch(
                f"round {work.round} already has another frame at {work.start_pos} "
                f"({known.work.num_tokens} positions, not {work.num_tokens}): begin a new round to replace it",
                field="start_pos",
            )
        return known

    def check(self, work: work_module.Work) -> None:
        """Raises `PositionMismatch` unless `work` may follow what the session has planned."""
        new_round = work.round > self.round
        if work.commit_pos < 0 or work.commit_pos > self.planned_len:
            raise errors.PositionMismatch(
                f"{work.commit_pos} lies outside the session, which holds {self.planned_len} positions",
                field="commit_pos",
            )
        expected = work.commit_pos if new_round else self.planned_len
        if work.start_pos != expected:
            why = "a new round starts at its commit_pos" if new_round else f"round {self.round} continues there"
            raise errors.PositionMismatch(f"found {work.start_pos}, expected {expected}: {why}", field="start_pos")
        if work.end_pos > self.kv.max_positions:
            raise errors.PositionMismatch(
                f"the frame ends at {work.end_pos}, the session has room for {self.kv.max_positions} positions: "
                "open it with a larger max_positions, if the model's context allows",
                field="start_pos",
            )

    def view(self, pending: Pending) -> scheduler.Waiting:
        """A queued frame as the scheduling policy sees it."""
        first = self.queue[0]
        return scheduler.Waiting(
            ticket=pending.ticket,
            session_id=self.id,
            kind=pending.work.kind,
            num_tokens=pending.left_tokens,
            served_tokens=self.served_tokens,
            skipped_batches=pending.skipped_batches,
            joins_previous=pending is not first and pending.work.round == first.work.round,
            order=self.order,
            prompt_tokens=max(self.prompt_tokens, self.expected_prompt_tokens),
            generated=self.generated,
            away=self.away,
        )

    def take_in(self, work: work_module.Work, *, ticket: int, now_s: float) -> Pending:
        """Queues a checked frame."""
        pending = Pending(work=work, job=work_module.Job(work, self.kv), ticket=ticket, arrived_s=now_s)
        if work.round > self.round:
            self.round = work.round
            self.frames.clear()
        self.planned_len = work.end_pos
        if work.kind is types.FrameKind.VERIFY:
            self.generated += 1
        else:
            self.prompt_tokens += work.num_tokens
        self.frames[work.start_pos] = pending
        self.queue.append(pending)
        self.last_used_s = now_s
        return pending

    def finish(self, pending: Pending, payload: types.Payload | None, *, now_s: float) -> work_module.Work | None:
        """The oldest frame is done; returns the frame that continues it, if one does."""
        oldest = self.queue.popleft()
        assert oldest is pending, "frames of a session end in their order"
        continuation = pending.work.continuation
        done = pending.resolve(payload, now_s=now_s)
        pending.forget_payload(self.kv)
        self.last_used_s = now_s
        return continuation.follow(done) if continuation is not None else None

    def fail_from(self, pending: Pending, error: Exception, *, now_s: float) -> None:
        """A queued frame fails: the session goes back to its start, and frames that continue it are refused.

        Frames behind it survive from the first on that rolls back to the failed one's start or further.
        """
        self.failed = True
        frames = list(self.queue)
        at = frames.index(pending)
        independent = next(
            (index for index in range(at + 1, len(frames)) if frames[index].work.start_pos <= pending.work.start_pos),
            len(frames),
        )
        self.queue = collections.deque([*frames[:at], *frames[independent:]])
        if independent == len(frames):
            self.planned_len = pending.work.start_pos
        self._forget(pending).fail(error)
        for later in frames[at + 1 : independent]:
            refusal = errors.PositionMismatch(f"the frame before this one failed: {error}", field="start_pos")
            self._forget(later).fail(refusal)
        self.last_used_s = now_s

    def fail_all(self, error: Exception) -> None:
        """The session ends: everything queued fails with `error`."""
        while self.queue:
            self._forget(self.queue.pop()).fail(error)

    def _forget(self, pending: Pending) -> Pending:
        if self.frames.get(pending.work.start_pos) is pending:
            del self.frames[pending.work.start_pos]
        return pending


def _spent(*_: object) -> NoReturn:
    raise AssertionError("a frame is computed once")


def _mark_retrieved(future: asyncio.Future[work_module.Done]) -> None:
    """Nobody need be waiting when a frame of a closed session fails; asyncio would log that as an unread error."""
    if not future.cancelled():
        future.exception()
