"""A clock that a test moves and a backend without torch, whose deep state of a position is `hidden + position`."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Sequence

from milliner.core import types
from milliner.engine import work


class ManualClock:
    """`core.ports.Clock` in virtual time: `advance` wakes those whose time has come."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._ids = itertools.count()

    def now(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        heapq.heappush(self._sleepers, (self._now_s + seconds, next(self._ids), event))
        await event.wait()

    async def advance(self, seconds: float) -> None:
        until_s = self._now_s + seconds
        while self._sleepers and self._sleepers[0][0] <= until_s:
            self._now_s, _, event = heapq.heappop(self._sleepers)
            event.set()
            await settle()
        self._now_s = until_s


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


class ToySequence:
    """What a session has cached: the hidden values of its positions."""

    def __init__(self) -> None:
        self.values: list[float] = []


class ToyBackend:
    """Records every batch; a hidden state is one float, a frame's payload their list. `gate` runs before a batch."""

    def __init__(self, *, num_pages: int = 16, page_tokens: int = 4, swap_pages: int = 0) -> None:
        self.num_pages = num_pages
        self.swap_pages = swap_pages
        self.page_bytes = 4 * page_tokens
        self.moves: list[tuple[str, int, bool]] = []  # (session, tokens, out) of each
        self.page_tokens = page_tokens
        self.max_positions = 128
        self.batches: list[list[tuple[str, int, int]]] = []  # (session, start, tokens) of each piece
        self.released = 0
        self.measured: list[int] = []
        self.gate: Callable[[], object] = lambda: None

    def run(
        self, pieces: Sequence[work.Piece], *, release: Sequence[work.KVHandle], swaps: work.Swaps
    ) -> work.BatchOutcome:
        self.gate()
        self.moves += [(move.session_id, move.num_tokens, move.out) for move in (*swaps.before, *swaps.ahead)]
        self.released += len(release)
        self.batches.append([(p.job.work.session_id, p.start_pos, p.num_tokens) for p in pieces])
        broken: set[int] = set()
        outcomes = [self._piece(piece, broken) for piece in pieces]
        computed = sum(p.num_tokens for p, o in zip(pieces, outcomes, strict=True) if o.error is None)
        return work.BatchOutcome(pieces=tuple(outcomes), num_tokens=computed)

    def measure(self, num_tokens: int) -> None:
        self.measured.append(num_tokens)

    def _piece(self, piece: work.Piece, broken: set[int]) -> work.PieceOutcome:
        job = piece.job
        try:
            if id(job.kv) in broken:
                raise ValueError("earlier frame failed")
            if job.hidden is None:
                job.hidden = job.work.decode()
        except Exception as error:
            broken.add(id(job.kv))
            return work.PieceOutcome(error=error)
        sequence = job.kv.sequence = job.kv.sequence or ToySequence()
        assert len(sequence.values) >= piece.start_pos, "positions are missing"
        del sequence.values[piece.start_pos :]
        sequence.values += list(job.hidden)[piece.offset : piece.offset + piece.num_tokens]
        if not piece.is_last or job.work.reply_positions is types.ReplyPositions.NONE:
            return work.PieceOutcome()
        return work.PieceOutcome(payload=job.work.encode(sequence.values))  # type: ignore[arg-type]


def frame(
    session_id: str = "a",
    *,
    start: int = 0,
    tokens: int = 1,
    round_index: int | None = None,
    commit: int | None = None,
    kind: types.FrameKind = types.FrameKind.VERIFY,
    reply: types.ReplyPositions = types.ReplyPositions.ALL,
    decode: Callable[[], object] | None = None,
) -> work.Work:
    """A frame for the toy backend. The round defaults to `start` (rounds follow one another), values to positions."""
    return work.Work(
        session_id=session_id,
        round=start if round_index is None else round_index,
        commit_pos=start if commit is None else commit,
        start_pos=start,
        num_tokens=tokens,
        kind=kind,
        reply_positions=reply,
        decode=decode or (lambda: [float(position) for position in range(start, start + tokens)]),  # type: ignore[arg-type]
        encode=lambda values: types.Payload(
            codec=types.Codec.FLOAT32, num_tokens=len(values), data=repr(list(values)).encode()
        ),
    )


def session_open(session_id: str = "a", *, max_positions: int = 16) -> types.SessionOpen:
    return types.SessionOpen(
        session_id=session_id,
        model_digest="sha256:0",
        slice_start=0,
        slice_end=1,
        hidden_size=1,
        max_positions=max_positions,
    )
