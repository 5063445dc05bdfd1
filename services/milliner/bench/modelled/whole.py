"""`core.generation` with modelled durations: a device that runs a whole model, and a cloud of limited places behind a
link. Token ids mean nothing; a sequence's next token is its length.

The device computes one call after the other. The cloud computes batches: a token of each sequence that generates, and
prompts as far as the budget goes; who finds no place waits in turn.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from collections.abc import AsyncGenerator, Sequence

from milliner.core import compute, errors, generation, ports, types
from milliner.core import refinement as refinements

INFO = generation.WholeModelInfo(
    model_digest="sha256:modelled",
    tokenizer_digest="sha256:modelled",
    num_layers=32,
    vocab_size=1 << 20,
    max_positions=1 << 16,
)
_BYTES_PER_ID = 4
_SCATTER = 7919  # arbitrary: a prime


class ModelledDeviceModel:
    """Implements `core.generation.WholeModel`."""

    def __init__(self, cost: compute.GenerationCost, *, clock: ports.Clock) -> None:
        self.info = INFO
        self._cost = cost
        self._clock = clock
        self._accelerator = asyncio.Lock()

    async def open(
        self,
        sampler: generation.Sampler,
        *,
        max_positions: int,
        prompt_ids: Sequence[int] = (),
        salt: str = "",
        refinement: refinements.Refinement | None = None,
        claim: str = "",
    ) -> ModelledDeviceSession:
        return ModelledDeviceSession(self)

    async def busy(self, num_tokens: int, *, num_steps: int) -> float:
        """Occupies the accelerator for a pass; returns its duration."""
        seconds = self._cost.batch_s(num_tokens, num_steps=num_steps)
        async with self._accelerator:
            await self._clock.sleep(seconds)
        return seconds


class ModelledDeviceSession:
    """Implements `core.generation.WholeSession`."""

    def __init__(self, model: ModelledDeviceModel) -> None:
        self._model = model
        self._limit = 0
        self.cached_tokens = 0
        self.position = 0
        self.kept: refinements.Spans | None = None

    async def prefill(self, token_ids: Sequence[int]) -> int:
        self.position += len(token_ids)
        await self._model.busy(len(token_ids), num_steps=0)
        return len(token_ids)

    async def generate(
        self,
        token_ids: Sequence[int],
        *,
        limit: int,
        stop_token_ids: frozenset[int] = frozenset(),
        left_out: int = 0,
    ) -> AsyncGenerator[generation.Step, None]:
        self._limit = limit
        seconds = await self._model.busy(len(token_ids), num_steps=0)
        self.position += len(token_ids)
        index = 0
        while True:
            index += 1
            last = index >= self._limit
            token = types.EmittedToken(self.position + left_out, types.TokenOrigin.DEVICE)
            yield generation.Step(token=token, queue_s=0.0, compute_s=seconds, batched_tokens=1, last=last)
            if last:
                return
            seconds = await self._model.busy(1, num_steps=1)
            self.position += 1

    def set_limit(self, limit: int) -> None:
        self._limit = limit

    def extend(self, max_positions: int) -> None:
        return None

    async def close(self) -> None:
        return None


@dataclasses.dataclass(slots=True)
class _Sequence:
    """A session in the cloud."""

    prompt_left: int
    position: int
    limit: int
    tokens: asyncio.Queue[generation.CloudToken]
    kept: tuple[tuple[int, int], ...] | None = None
    generated: int = 0
    closed: bool = False


class ModelledTokenCloud:
    """Implements `core.generation.TokenTransport`: `places` sequences at once, one batch after the other (`serve`)."""

    def __init__(
        self,
        cost: compute.ComputeCost,
        *,
        clock: ports.Clock,
        places: int,
        uplink_bytes_per_s: float,
        round_trip_s: float,
        max_batch_tokens: int = 2048,
    ) -> None:
        self._cost = cost
        self._clock = clock
        self._places = places
        self._uplink_bytes_per_s = uplink_bytes_per_s
        self._way_s = round_trip_s / 2
        self._budget = max_batch_tokens
        self._waiting: collections.deque[_Sequence] = collections.deque()
        self._running: list[_Sequence] = []
        self._news = asyncio.Event()
        self.busy_s = 0.0
        self.lost = False

    async def open(self, request: generation.GenerationOpen) -> ModelledTokenStream:
        self._check()
        await self._clock.sleep(self._way_s + _BYTES_PER_ID * len(request.prompt_ids) / self._uplink_bytes_per_s)
        sequence = _Sequence(
            prompt_left=len(request.prompt_ids),
            position=len(request.prompt_ids),
            limit=request.max_tokens,
            tokens=asyncio.Queue(),
            kept=_kept(len(request.prompt_ids), request.keep_share),
        )
        self._waiting.append(sequence)
        self._news.set()
        return ModelledTokenStream(self, sequence, request.session_id)

    async def serve(self) -> None:
        """Computes batches for ever."""
        while True:
            self._admit()
            if not self._running:
                self._news.clear()
                await self._news.wait()
                continue
            await self._batch()

    async def arrived(self) -> None:
        """A message's way between the tiers."""
        await self._clock.sleep(self._way_s)
        self._check()

    def _check(self) -> None:
        if self.lost:
            raise errors.UnavailableError("the cloud is gone", field="cloud")

    def _admit(self) -> None:
        self._running = [each for each in self._running if not each.closed and each.generated < each.limit]
        while self._waiting and len(self._running) < self._places:
            sequence = self._waiting.popleft()
            if not sequence.closed:
                self._running.append(sequence)

    async def _batch(self) -> None:
        left, taken = self._budget, list[tuple[_Sequence, int]]()
        for sequence in sorted(self._running, key=lambda each: each.prompt_left > 0):
            num_tokens = min(left, sequence.prompt_left or 1)
            if num_tokens:
                taken.append((sequence, num_tokens))
                left -= num_tokens
        seconds = self._cost.duration_s(sum(num_tokens for _, num_tokens in taken))
        self.busy_s += seconds
        await self._clock.sleep(seconds)
        for sequence, num_tokens in taken:
            sequence.prompt_left = max(0, sequence.prompt_left - num_tokens)
            if sequence.prompt_left == 0:
                self._give(sequence, seconds=seconds, batched=self._budget - left)

    def _give(self, sequence: _Sequence, *, seconds: float, batched: int) -> None:
        token = types.EmittedToken(sequence.position, types.TokenOrigin.CLOUD)
        sequence.position += 1
        sequence.generated += 1
        step = generation.Step(
            token=token,
            queue_s=0.0,
            compute_s=seconds,
            batched_tokens=batched,
            last=sequence.generated >= sequence.limit,
        )
        first = sequence.generated == 1
        sequence.tokens.put_nowait(
            generation.CloudToken(
                index=sequence.generated - 1, step=step, last=step.last, kept=sequence.kept if first else None
            )
        )


class ModelledTokenStream:
    """Implements `core.generation.TokenStream`; tokens are delayed by the way down, one behind the other."""

    def __init__(self, cloud: ModelledTokenCloud, sequence: _Sequence, session_id: str) -> None:
        self._cloud = cloud
        self._sequence = sequence
        self.opened = generation.GenerationOpened(session_id, INFO.model_digest, types.LoadReport())
        self._arrived: asyncio.Queue[generation.CloudToken | Exception] = asyncio.Queue()
        self._carriers: set[asyncio.Task[None]] = set()
        self._taking = asyncio.ensure_future(self._take())

    async def receive(self) -> generation.CloudToken:
        found = await self._arrived.get()
        if isinstance(found, Exception):
            raise found
        return found

    async def set_limit(self, max_tokens: int) -> None:
        await self._cloud.arrived()
        self._sequence.limit = max_tokens

    async def close(self) -> None:
        self._sequence.closed = True
        for task in (self._taking, *self._carriers):
            task.cancel()

    async def _take(self) -> None:
        while True:
            token = await self._sequence.tokens.get()
            carrier = asyncio.ensure_future(self._carry(token))
            self._carriers.add(carrier)
            carrier.add_done_callback(self._carriers.discard)

    async def _carry(self, token: generation.CloudToken) -> None:
        try:
            await self._cloud.arrived()
        except errors.UnavailableError as error:
            self._arrived.put_nowait(error)
        else:
            self._arrived.put_nowait(token)


def _kept(prompt_tokens: int, share: float) -> tuple[tuple[int, int], ...] | None:
    """What a cloud would keep if its scores were scattered over the prompt."""
    if share >= 1.0:
        return None
    scores = [position * _SCATTER % 101 for position in range(prompt_tokens)]
    return refinements.select(scores, refinements.Refinement(share))
