"""Fifty sessions of odd lengths on a tiny cache, with frames cancelled, broken, poisoned, repeated and out of place.

Whatever is drawn: answers are right (no session reads another's pages), nobody starves, no page and no promise is lost.
The backend is the real one, over layers whose deep state of a position is the sum of all hidden states up to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from milliner.core import errors, types
from milliner.engine import engine, executor, limits, scheduler, slice_backend, work
from milliner.model import kv_cache, ragged

from . import toys

NUM_SESSIONS, MAX_POSITIONS = 50, 90
PAGE_TOKENS, NUM_PAGES = 4, 40  # two of the longest sessions fill the cache
POISON = -1.0
CONFIG = limits.EngineConfig(
    kv_cache_bytes=NUM_PAGES * PAGE_TOKENS * 2 * 4,
    max_batch_tokens=24,
    page_tokens=PAGE_TOKENS,
    max_sessions=12,
    session_idle_s=100,
    max_frame_tokens=40,
)


class SummingLayers:
    """Stands for a `ModelSlice`. A pass over several sessions fails now and then, one over a poisoned state always."""

    kv_spec = kv_cache.KVSpec(0, (kv_cache.LayerKV(num_kv_heads=1, head_dim=1),))
    dtype, torch_device, hidden_size, max_positions = torch.float32, torch.device("cpu"), 1, 1000

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def forward(self, hidden: torch.Tensor, batch: ragged.RaggedBatch) -> torch.Tensor:
        if (hidden == POISON).any() or (len(batch.segments) > 1 and self._draw.random() < 0.05):
            raise RuntimeError("out of luck")
        sums = []
        keys = batch.cache.keys[0]
        for segment, rows in zip(batch.segments, hidden.split([s.num_tokens for s in batch.segments]), strict=True):
            keys[segment.sequence.physical_slots(range(segment.start, segment.end)), 0] = rows
            own = keys[segment.sequence.physical_slots(range(segment.end)), 0, 0]
            sums.append(own.cumsum(0)[segment.start :, None])
        batch.commit()
        return torch.cat(sums)


class WatchedPolicy:
    """The default policy; remembers how often the oldest frame of a session was left out."""

    def __init__(self) -> None:
        self.most_skipped = 0
        self._policy = scheduler.VerifyFirst()

    def plan(self, waiting: Sequence[scheduler.Waiting], *, budget_tokens: int) -> list[scheduler.Share]:
        shares = self._policy.plan(waiting, budget_tokens=budget_tokens)
        assert sum(share.num_tokens for share in shares) <= budget_tokens
        self.most_skipped = max(self.most_skipped, *(frame.skipped_batches for frame in waiting))
        return shares

    def rank(self, waiting: Sequence[scheduler.Waiting]) -> list[scheduler.Waiting]:
        return self._policy.rank(waiting)


@dataclasses.dataclass
class Life:
    """One session: `held` are the hidden values that the cloud has of it for certain."""

    cloud: engine.Engine
    name: str
    draw: random.Random
    room: int
    held: list[float] = dataclasses.field(default_factory=list)
    round: int = -1
    num_done: int = 0
    unlucky: bool = False  # something in this round was made to fail
    wrong: list[str] = dataclasses.field(default_factory=list)  # an encoder's own failure would only fail its frame

    async def live(self) -> None:
        while True:
            with contextlib.suppress(errors.CapacityError):
                await self.cloud.open(toys.session_open(self.name, max_positions=self.room))
                break
            await asyncio.sleep(0.001)
        try:
            for _ in range(self.draw.randint(1, 6)):
                await self._round()
                if self.draw.random() < 0.1:
                    return  # the device vanishes in the middle of its answer
        finally:
            await self.cloud.close(self.name)

    async def _round(self) -> None:
        """Rolls back a little and sends some frames without waiting for the ones before."""
        self.round, self.unlucky = self.round + 1, False
        commit = self.draw.randint(max(0, min(len(self.held), self.room - 1) - 5), min(len(self.held), self.room - 1))
        del self.held[commit:]
        frames, at = list[tuple[work.Work, list[float]]](), commit
        for _ in range(self.draw.randint(1, 4)):
            tokens = min(self.draw.randint(1, 17), self.room - at)
            if tokens > 0:
                values = [float(self.draw.randint(1, 50)) for _ in range(tokens)]
                frames.append((self._frame(at, values, commit=commit), values))
                at += tokens
        tasks = [asyncio.create_task(self.cloud.forward(frame)) for frame, _ in frames]
        mischief = self.draw.random()
        if mischief < 0.2:
            self.unlucky = True
            await asyncio.sleep(self.draw.choice((0.0, 0.001, 0.003)))
            self.draw.choice(tasks).cancel()
        elif mischief < 0.3:
            tasks.append(asyncio.create_task(self.cloud.forward(frames[-1][0])))  # a repeat
        elif mischief < 0.4:
            await asyncio.sleep(0)  # the others are in
            with pytest.raises(errors.PositionMismatch):
                await self.cloud.forward(self._frame(self.room, [1.0], commit=0))
        for task, (frame, values) in itertools.zip_longest(tasks, frames, fillvalue=frames[-1]):
            if not await self._ended(task, frame):  # type: ignore[arg-type]
                assert self.unlucky, "a frame failed for no fault of its own"
                break
            if frame.start_pos == len(self.held):
                self.held += values
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ended(self, task: asyncio.Task[work.Done], frame: work.Work) -> bool:
        """Whether the frame was computed, as far as this side knows."""
        try:
            done = await task
        except (errors.MillinerError, asyncio.CancelledError):
            return False
        assert done.kv_len == frame.end_pos
        self.num_done += 1
        return True

    def _frame(self, start: int, values: list[float], *, commit: int) -> work.Work:
        before = sum(self.held[:commit]) if start == commit else None
        fortune = self.draw.random()
        self.unlucky |= fortune < 0.1

        def decode() -> Any:
            if fortune < 0.05:
                raise errors.ShapeMismatch("garbage", field="payloads")
            return torch.tensor([[POISON if fortune < 0.1 else value] for value in values])

        def encode(rows: torch.Tensor) -> types.Payload:
            sums = rows[:, 0].tolist()
            if [after - earlier for earlier, after in itertools.pairwise(sums)] != values[1:]:
                self.wrong.append(f"round {self.round}: {sums} from {values}")
            if before is not None and sums[0] != before + values[0]:
                self.wrong.append(f"round {self.round}: {sums[0]} from {before} and {values[0]}")
            return types.Payload(types.Codec.FLOAT32, len(sums), b"")

        return dataclasses.replace(
            toys.frame(self.name, start=start, tokens=len(values), round_index=self.round, commit=commit),
            kind=self.draw.choice(list(types.FrameKind)),
            decode=decode,
            encode=encode,
        )


@pytest.mark.parametrize(("seed", "swap_caches"), [*((seed, 0) for seed in range(6)), (6, 2), (7, 2), (8, 3)])
async def test_no_page_is_lost_and_nobody_starves(
    seed: int, swap_caches: int, caplog: pytest.LogCaptureFixture
) -> None:
    """With host memory for as many whole caches as `swap_caches` says, which sessions are moved to and from."""
    caplog.set_level("CRITICAL")  # failed passes are meant
    draw, policy, clock = random.Random(seed), WatchedPolicy(), toys.ManualClock()
    config = dataclasses.replace(CONFIG, kv_swap_bytes=swap_caches * CONFIG.kv_cache_bytes)
    backend = slice_backend.SliceBackend(SummingLayers(draw), config=config)  # type: ignore[arg-type]
    worker = executor.ComputeExecutor(name="stress", torch_threads=1)
    cloud = engine.Engine(backend, config=config, executor=worker, clock=clock, policy=policy)
    lives = [
        Life(cloud, f"s{index}", random.Random(f"{seed}/{index}"), draw.randint(1, MAX_POSITIONS))
        for index in range(NUM_SESSIONS)
    ]
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            tasks.create_task(cloud.run())
            for index in range(3):  # devices that open a session and are never heard of again
                await cloud.open(toys.session_open(f"forgotten{index}", max_positions=5))
                await cloud.forward(toys.frame(f"forgotten{index}", decode=lambda: torch.ones(1, 1), tokens=1))
            async with asyncio.TaskGroup() as devices:
                for life in lives:
                    devices.create_task(life.live())
            await clock.advance(2 * CONFIG.session_idle_s)
            assert (cloud.load().running_sessions, cloud.load().kv_used_share) == (0, 0.0)
            swapped = cloud.swapped()
            assert (swapped.sequences, swapped.used_bytes) == (0, 0)
            assert (swapped.moved_out_bytes > 0) == (swap_caches > 0)
            # The whole cache is there for one session, whose first batch frees what ended sessions held.
            await cloud.open(toys.session_open("last", max_positions=NUM_PAGES * PAGE_TOKENS))
            for start in range(0, NUM_PAGES * PAGE_TOKENS, 40):
                done = await cloud.forward(toys.frame("last", start=start, tokens=40, decode=lambda: torch.ones(40, 1)))
            assert done.kv_len == NUM_PAGES * PAGE_TOKENS
            await cloud.stop()
    finally:
        worker.close()
    assert [life.wrong for life in lives if life.wrong] == []
    assert sum(life.num_done for life in lives) > NUM_SESSIONS  # what was drawn left something to check
    assert policy.most_skipped <= scheduler.PATIENCE_BATCHES + CONFIG.max_sessions
