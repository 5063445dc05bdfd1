"""A whole model behind `core.generation.WholeModel`: sequences over the engine, which batches them all.

Known tokens go in as chunks. From then on every generated token is the next frame of its session, which the engine
takes in within its own bookkeeping (`work.Continuation`): no sequence misses a batch because somebody was waiting for
its last token to be sent. Event loop only, torch-free; the codec's parts run on the executor's thread.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Protocol

from milliner.core import generation, types
from milliner.core import refinement as refinements
from milliner.engine import engine as engines
from milliner.engine import work

if TYPE_CHECKING:
    import torch

    from milliner.model import prompt_watch

_SESSION_ID_BYTES = 16  # 128 random bits, as every session's


class Chooser(Protocol):
    """How one sequence picks its tokens (`token_codec.TokenChooser`)."""

    def choose(self, logits: torch.Tensor, *, position: int) -> types.EmittedToken: ...


class Codec(Protocol):
    """Tokens to embeddings, logits to tokens (`token_codec.TokenCodec`)."""

    def embed(self, token_ids: Sequence[int]) -> torch.Tensor: ...

    def chooser(self, sampler: generation.Sampler, *, origin: types.TokenOrigin) -> Chooser: ...


class Refining(Protocol):
    """One prompt that is being refined (`refiner.Refining`)."""

    @property
    def watch(self) -> prompt_watch.PromptWatch:
        """Sees the prompt's frames being computed."""
        ...

    def choose(self) -> refinements.Spans:
        """The spans to keep, once they all are. On the executor's thread."""
        ...


class Refiner(Protocol):
    """Finds out what matters of prompts (`refiner.Refiner`)."""

    def begin(self, wanted: refinements.Refinement, *, num_tokens: int) -> Refining: ...


class EngineModel:
    """Implements `core.generation.WholeModel` over an engine that runs elsewhere (`Engine.run`); without a `refiner`
    it keeps prompts whole."""

    def __init__(
        self,
        engine: engines.Engine,
        *,
        codec: Codec,
        info: generation.WholeModelInfo,
        origin: types.TokenOrigin,
        refiner: Refiner | None = None,
    ) -> None:
        self._engine = engine
        self._refiner = refiner
        self._codec = codec
        self._origin = origin
        self.info = info

    async def open(
        self,
        sampler: generation.Sampler,
        *,
        max_positions: int,
        prompt_ids: Sequence[int] = (),
        salt: str = "",
        refinement: refinements.Refinement | None = None,
        claim: str = "",
    ) -> EngineSession:
        """See `core.generation.WholeModel.open`."""
        refining = None
        reusable = prompt_ids
        if refinement is not None and self._refiner is not None:
            refining = self._refiner.begin(refinement, num_tokens=len(prompt_ids))
            reusable = prompt_ids[: refining.watch.first]  # its queries have to be computed
        opened = await self._engine.open(
            types.SessionOpen(
                session_id=secrets.token_hex(_SESSION_ID_BYTES),
                model_digest=self.info.model_digest,
                slice_start=0,
                slice_end=self.info.num_layers,
                hidden_size=0,  # nothing of a hidden state is exchanged
                max_positions=max_positions,
                claim=claim,
            ),
            prompt=work.KnownTokens(reusable, salt) if reusable else None,
        )
        chooser = self._codec.chooser(sampler, origin=self._origin)
        return EngineSession(
            self._engine, opened=opened, codec=self._codec, chooser=chooser, salt=salt, refining=refining
        )


class EngineSession:
    """Implements `core.generation.WholeSession`."""

    def __init__(
        self,
        engine: engines.Engine,
        *,
        opened: types.SessionOpened,
        codec: Codec,
        chooser: Chooser,
        salt: str,
        refining: Refining | None,
    ) -> None:
        self._engine = engine
        self._id = opened.session_id
        self._max_frame_tokens = opened.max_frame_tokens
        self._codec = codec
        self._chooser = chooser
        self._round = 0
        self._run: _Run | None = None
        self._limit = 0  # of tokens that `generate` yields
        self._salt = salt
        self._refining = refining
        self._fed: list[int] = []
        self.kept: refinements.Spans | None = None
        self.cached_tokens = opened.kv_len

    @property
    def position(self) -> int:
        return len(self._fed)

    async def prefill(self, token_ids: Sequence[int]) -> int:
        """See `core.generation.WholeSession.prefill`."""
        missing = self._skip(token_ids)
        for start in range(0, len(missing), self._max_frame_tokens):
            frame = self.frame(missing[start : start + self._max_frame_tokens], kind=types.FrameKind.CHUNK)
            await self._engine.forward(frame)
        return len(missing)

    async def generate(
        self,
        token_ids: Sequence[int],
        *,
        limit: int,
        stop_token_ids: frozenset[int] = frozenset(),
        left_out: int = 0,
    ) -> AsyncGenerator[generation.Step, None]:
        """See `core.generation.WholeSession.generate`."""
        assert token_ids and limit >= 1, "a token follows known ones"
        self._limit = limit
        missing = self._skip(token_ids)
        *_, tail_start = range(0, len(missing), self._max_frame_tokens)
        await self.prefill(missing[:tail_start])
        run = self._run = _Run(
            self, missing[tail_start:], limit=self._limit, stop_token_ids=stop_token_ids, left_out=left_out
        )
        first = asyncio.ensure_future(self._begin(run))
        try:
            last = False
            while not last:
                step = await run.steps.get()
                last = step.last
                yield step
        finally:
            run.limit = 0
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    def set_limit(self, limit: int) -> None:
        """See `core.generation.WholeSession.set_limit`."""
        self._limit = limit
        if self._run is not None:
            self._run.limit = limit

    def extend(self, max_positions: int) -> None:
        """See `core.generation.WholeSession.extend`."""
        self._engine.extend(self._id, max_positions)

    async def close(self) -> None:
        """See `core.generation.WholeSession.close`."""
        await self._engine.close(self._id, held=work.KnownTokens(self._fed, self._salt))

    async def _begin(self, run: _Run) -> None:
        """Gives the engine the run's first frame, and the run's reader the reason where it does not take it."""
        try:
            await self._engine.forward(run.first)
        except Exception as error:
            run.failed(error)

    def _skip(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Those of `token_ids` whose positions were not in the cache when the session was opened."""
        cached = min(len(token_ids), max(0, self.cached_tokens - self.position))
        self._fed += token_ids[:cached]
        return token_ids[cached:]

    def frame(self, token_ids: Sequence[int], *, kind: types.FrameKind, run: _Run | None = None) -> work.Work:
        """The session's next frame; with `run` its last position is followed by a token of the model's own."""
        self._round += 1
        start, ids = self.position, tuple(token_ids)
        self._fed += ids
        end = self.position
        return work.Work(
            session_id=self._id,
            round=self._round,
            commit_pos=start,
            start_pos=start,
            num_tokens=len(ids),
            kind=kind,
            reply_positions=types.ReplyPositions.NONE if run is None else types.ReplyPositions.LAST,
            decode=lambda: self._codec.embed(ids),
            encode=lambda logits: None if run is None else run.choose(logits, position=end),
            of_logits=run is not None,
            continuation=run,
            watch=self._refining.watch if self._refining is not None else None,
        )

    def choose(self, logits: torch.Tensor, *, position: int) -> types.EmittedToken:
        """The token at `position`; with the first one the prompt is refined. On the executor's thread."""
        if self._refining is not None:
            refining, self._refining = self._refining, None
            self.kept = refining.choose()
        return self._chooser.choose(logits, position=position)


class _Run:
    """One `generate`: implements `work.Continuation`, and hands the steps over to whoever reads them."""

    def __init__(
        self,
        session: EngineSession,
        token_ids: Sequence[int],
        *,
        limit: int,
        stop_token_ids: frozenset[int],
        left_out: int,
    ) -> None:
        self._session = session
        self._left_out = left_out
        self._stop_token_ids = stop_token_ids
        self._generated = 0
        self._chosen: types.EmittedToken | None = None  # written on the executor's thread, before `follow`
        self.limit = limit
        self.steps = _Steps()
        self.first = session.frame(token_ids, kind=types.FrameKind.LAST_CHUNK, run=self)

    def choose(self, logits: torch.Tensor, *, position: int) -> None:
        """Picks the token at `position`. On the executor's thread."""
        self._chosen = self._session.choose(logits, position=position + self._left_out)

    def follow(self, done: work.Done) -> work.Work | None:
        """See `work.Continuation`."""
        token = self._chosen
        assert token is not None, "the frame was encoded"
        self._generated += 1
        last = self._generated >= self.limit or token.token_id in self._stop_token_ids
        self.steps.put(
            generation.Step(
                token=token,
                queue_s=done.queue_s,
                compute_s=done.compute_s,
                batched_tokens=done.batched_tokens,
                last=last,
            )
        )
        return None if last else self._session.frame([token.token_id], kind=types.FrameKind.VERIFY, run=self)

    def failed(self, error: Exception) -> None:
        """See `work.Continuation`."""
        self.steps.fail(error)


class _Steps:
    """What a run has generated and nobody has read yet; a failure comes after it."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[generation.Step | Exception] = asyncio.Queue()

    def put(self, step: generation.Step) -> None:
        self._queue.put_nowait(step)

    def fail(self, error: Exception) -> None:
        self._queue.put_nowait(error)

    async def get(self) -> generation.Step:
        found = await self._queue.get()
        if isinstance(found, Exception):
            raise found
        return found
