"""What callers hand to the engine and get back, and what the engine hands to its backend. Values only, torch-free.

A caller's `Work` is one frame. The scheduler may split it over several batches, so the backend computes `Piece`s of
it. `Job` and `KVHandle` carry what the backend keeps between batches; only the executor's thread touches their
tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from milliner.core import types

if TYPE_CHECKING:
    import torch

    from milliner.model import prompt_watch


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """One frame: hidden states of positions [start_pos, start_pos + num_tokens) of a session.

    `decode` gives them as `[T, D]` and `encode` writes the deep states of the positions that `reply_positions` asks
    for, or with `of_logits` takes their logits `[1, V]` (a whole model's; `reply_positions` is LAST then); both run on
    the executor's thread. Errors of the `core.errors` tree that they raise reach the caller as such.
    """

    session_id: str
    round: int
    commit_pos: int
    start_pos: int
    num_tokens: int
    kind: types.FrameKind
    reply_positions: types.ReplyPositions
    decode: Callable[[], torch.Tensor]
    encode: Callable[[torch.Tensor], types.Payload | None]
    of_logits: bool = False
    continuation: Continuation | None = None
    watch: prompt_watch.PromptWatch | None = None  # of the session's prompt, while it is computed

    @property
    def end_pos(self) -> int:
        return self.start_pos + self.num_tokens


class Continuation(Protocol):
    """What follows a frame without waiting for whoever sent it, so that generation fills every batch.

    Called on the event loop, within the engine's bookkeeping: at once, and never raising.
    """

    def follow(self, done: Done) -> Work | None:
        """The session's next frame, or None where it ends."""
        ...

    def failed(self, error: Exception) -> None:
        """The frame failed, or its session ended."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A frame's result. `queue_s + compute_s + codec_s` is the time that the frame spent in the engine.

    `compute_s` sums the batches that the frame had a part in (with their padding on an emulated accelerator);
    `batched_tokens` is the size of the largest of them, other sessions' tokens included.
    """

    kv_len: int
    payload: types.Payload | None
    queue_s: float
    compute_s: float
    batched_tokens: int
    codec_s: float


class KVHandle:
    """A session's KV cache as the loop sees it: the backend fills `sequence` when the session is first computed, with
    the beginning of another's where there is an `adoption`."""

    __slots__ = ("adoption", "max_positions", "sequence")

    def __init__(self, max_positions: int) -> None:
        self.max_positions = max_positions
        self.sequence: Any = None  # the backend's own
        self.adoption: Adoption | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class KnownTokens:
    """Token ids of a whole model's session from its first position on; only equal salts share what they computed."""

    token_ids: Sequence[int]
    salt: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Adoption:
    """The first `num_tokens` positions of an ended session's cache: a copy, or with `move` its pages themselves."""

    source: KVHandle
    num_tokens: int
    move: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """The first `num_tokens` positions of a session's cache go `out` to host memory, or come back; the rest of it is
    forgotten."""

    session_id: str
    kv: KVHandle
    num_tokens: int
    out: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Swaps:
    """Adoptions to carry out, then moves in their order: those that a batch has to wait for, and those that are made
    while it is computed."""

    adopt: tuple[KVHandle, ...] = ()
    before: tuple[Move, ...] = ()
    ahead: tuple[Move, ...] = ()


class Job:
    """A work item with what the backend keeps of it between two of its pieces."""

    __slots__ = ("hidden", "kv", "logits", "outputs", "work")

    def __init__(self, work: Work, kv: KVHandle) -> None:
        self.work = work
        self.kv = kv
        self.hidden: Any = None  # [T, D], decoded once
        self.logits: Any = None  # [1, V] of the last position, where the frame asks for them
        self.outputs: list[Any] = []  # deep states of earlier pieces, kept when all positions are asked for


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """The part [offset, offset + num_tokens) of a job that one batch computes."""

    job: Job
    offset: int
    num_tokens: int

    @property
    def start_pos(self) -> int:
        return self.job.work.start_pos + self.offset

    @property
    def end_pos(self) -> int:
        return self.start_pos + self.num_tokens

    @property
    def is_last(self) -> bool:
        return self.offset + self.num_tokens == self.job.work.num_tokens


@dataclasses.dataclass(frozen=True, slots=True)
class PieceOutcome:
    """What came of one piece: an error, or the reply's payload (None before the last piece or where none is asked)."""

    error: Exception | None = None
    payload: types.Payload | None = None
    codec_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class BatchOutcome:
    """Outcomes in the order of the pieces, and how many tokens were really computed."""

    pieces: tuple[PieceOutcome, ...]
    num_tokens: int


class Backend(Protocol):
    """The accelerator's side of the engine. Both methods run on the executor's thread, one call at a time."""

    @property
    def num_pages(self) -> int: ...

    @property
    def swap_pages(self) -> int:
        """Pages of host memory that caches may be moved to; 0: none are moved."""
        ...

    @property
    def page_bytes(self) -> int: ...

    @property
    def page_tokens(self) -> int: ...

    @property
    def max_positions(self) -> int:
        """The model's context: frames beyond it are refused before they meet other sessions."""
        ...

    def run(self, pieces: Sequence[Piece], *, release: Sequence[KVHandle], swaps: Swaps) -> BatchOutcome:
        """Frees the caches in `release`, carries out `swaps.adopt`, moves those in `swaps.before`, then computes the
        pieces as one batch, while those in `swaps.ahead` move; pieces of one session come in order.

        A piece that fails has its error in its outcome; the others are computed all the same.
        """
        ...

    def measure(self, num_tokens: int) -> None:
        """Computes a batch of `num_tokens` zeros on a scratch cache: warm-up and calibration."""
        ...
