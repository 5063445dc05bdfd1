"""Planning batches of whole models: first come, and the feedback queue."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from tests.unit.milliner.engine import toys

from milliner.bench.modelled import virtual_time
from milliner.core import compute, errors, generation, types
from milliner.engine import engine as engines
from milliner.engine import generation_scheduler, limits, scheduler, whole_model, work

T = TypeVar("T")
# A token of an 8B model's cache (36 layers, 8 heads of 128, bfloat16: 144 KiB) over PCIe 4.0 x16 at 20 GB/s.
COPY_TOKEN_S = 144 * 1024 / 20e9
TRY_AGAIN_S = 0.25
STEP, PROMPT = types.FrameKind.VERIFY, types.FrameKind.LAST_CHUNK


def waiting(
    ticket: int,
    kind: types.FrameKind,
    *,
    tokens: int = 1,
    generated: int = 0,
    prompt: int = 8,
    skipped: int = 0,
    away: bool = False,
) -> scheduler.Waiting:
    return scheduler.Waiting(
        ticket=ticket,
        session_id=str(ticket),
        kind=kind,
        num_tokens=tokens,
        served_tokens=0,
        skipped_batches=skipped,
        order=ticket,
        prompt_tokens=prompt,
        generated=generated,
        away=away,
    )


def test_first_come_keeps_the_first_running() -> None:
    frames = [waiting(0, STEP, generated=500), waiting(1, STEP, generated=3), waiting(2, PROMPT, tokens=8)]
    plan = generation_scheduler.FirstCome(max_sequences=2).plan(frames, budget_tokens=64)
    assert [share.ticket for share in plan] == [0, 1]


def test_a_newcomer_overtakes_what_has_run_for_long() -> None:
    frames = [waiting(0, STEP, generated=500), waiting(1, STEP, generated=30), waiting(2, PROMPT, tokens=8)]
    plan = generation_scheduler.SkipJoinFeedbackQueue(max_sequences=2).plan(frames, budget_tokens=64)
    assert {share.ticket for share in plan} == {1, 2}


def test_a_long_prompt_joins_where_its_pass_fits() -> None:
    short = generation_scheduler.level(prompt_tokens=8, generated=0)
    long = generation_scheduler.level(prompt_tokens=4096, generated=0)
    assert short == 0
    assert long > generation_scheduler.level(prompt_tokens=8, generated=4)


def test_levels_only_sink() -> None:
    levels = [generation_scheduler.level(prompt_tokens=100, generated=count) for count in range(300)]
    assert levels == sorted(levels)
    assert levels[-1] >= 5


def test_what_waited_for_long_goes_first() -> None:
    old = waiting(0, STEP, generated=5000, skipped=generation_scheduler.PATIENCE_BATCHES)
    plan = generation_scheduler.SkipJoinFeedbackQueue(max_sequences=1).plan(
        [old, waiting(1, PROMPT, tokens=4)], budget_tokens=64
    )
    assert [share.ticket for share in plan] == [0]


def test_of_a_level_those_go_on_whose_caches_need_not_come_back_first() -> None:
    queue = generation_scheduler.SkipJoinFeedbackQueue(max_sequences=1)
    frames = [waiting(0, STEP, generated=500, away=True), waiting(1, STEP, generated=500)]
    assert [share.ticket for share in queue.plan(frames, budget_tokens=64)] == [1]
    frames = [waiting(0, STEP, generated=3, away=True), waiting(1, STEP, generated=500)]
    assert [share.ticket for share in queue.plan(frames, budget_tokens=64)] == [0]
    patient = waiting(0, STEP, generated=500, away=True, skipped=generation_scheduler.PATIENCE_BATCHES)
    assert [share.ticket for share in queue.plan([patient, frames[1]], budget_tokens=64)] == [0]


def test_steps_come_before_prompts_within_the_budget() -> None:
    frames = [waiting(0, PROMPT, tokens=100), waiting(1, STEP), waiting(2, STEP)]
    plan = generation_scheduler.FirstCome(max_sequences=8).plan(frames, budget_tokens=16)
    assert [(share.ticket, share.num_tokens) for share in plan] == [(1, 1), (2, 1), (0, 14)]


class VirtualExecutor:
    """`ComputeExecutor.run` in virtual time: what is computed takes what it is modelled to take, after what has to be
    copied before it."""

    def __init__(self, backend: TextBackend) -> None:
        self._backend = backend

    async def run(self, fn: Callable[[], T], *, modelled_s: Any = None) -> tuple[T, float]:
        result = fn()
        seconds = modelled_s(result) if callable(modelled_s) else modelled_s or 0.0
        seconds += self._backend.take_copied_tokens() * COPY_TOKEN_S
        await asyncio.sleep(seconds)
        return result, seconds


class CountingCodec:
    """Tokens over the toy backend: whatever comes, the next token is 1."""

    def embed(self, token_ids: Sequence[int]) -> Any:
        return [0.0] * len(token_ids)

    def chooser(self, sampler: generation.Sampler, *, origin: types.TokenOrigin) -> CountingCodec:
        return self

    def choose(self, logits: object, *, position: int) -> types.EmittedToken:
        return types.EmittedToken(1, types.TokenOrigin.CLOUD)


class TextBackend(toys.ToyBackend):
    """The toy backend for whole texts, with room for all of them unless told otherwise."""

    def __init__(self, *, num_pages: int = 100_000, swap_pages: int = 0) -> None:
        super().__init__(num_pages=num_pages, page_tokens=16, swap_pages=swap_pages)
        self.max_positions = 100_000
        self.brought_in = {"before": 0, "meanwhile": 0}  # caches, before a batch that waited for it or beside one
        self._copied_tokens = 0

    def run(
        self, pieces: Sequence[work.Piece], *, release: Sequence[work.KVHandle], swaps: work.Swaps
    ) -> work.BatchOutcome:
        self._copied_tokens += sum(move.num_tokens for move in swaps.before)
        self.brought_in["before"] += sum(not move.out for move in swaps.before)
        self.brought_in["meanwhile"] += sum(not move.out for move in swaps.ahead)
        return super().run(pieces, release=release, swaps=swaps)

    def take_copied_tokens(self) -> int:
        """Those that the last batch had to wait for."""
        found, self._copied_tokens = self._copied_tokens, 0
        return found


async def completion_times(
    policy: scheduler.SchedulingPolicy, jobs: Sequence[tuple[float, int, int]], *, backend: TextBackend | None = None
) -> tuple[list[float], list[float]]:
    """Seconds from arrival to the end, and the longest wait between two tokens, of each (at, prompt, answer)."""
    clock = virtual_time.VirtualClock()
    backend = backend or TextBackend()
    engine = engines.Engine(
        backend,
        config=limits.EngineConfig(kv_cache_bytes=0, max_sessions=1000, session_idle_s=1e6),
        executor=VirtualExecutor(backend),  # type: ignore[arg-type]
        clock=clock,
        cost=compute.ComputeCost(24e-3, 210e-6),
        policy=policy,
    )
    info = generation.WholeModelInfo("m", "t", 1, 100, 100_000)
    model = whole_model.EngineModel(engine, codec=CountingCodec(), info=info, origin=types.TokenOrigin.CLOUD)
    serving = asyncio.create_task(engine.run())
    took, longest_wait = [0.0] * len(jobs), [0.0] * len(jobs)

    async def opened(max_positions: int) -> whole_model.EngineSession:
        while True:  # as a device does: a full cloud keeps no queue
            try:
                return await model.open(generation.Sampler(types.SamplingParams(), seed=0), max_positions=max_positions)
            except errors.KVCacheFull:
                await clock.sleep(TRY_AGAIN_S)

    async def job(index: int, at_s: float, prompt: int, answer: int) -> None:
        await clock.sleep(at_s)
        session = await opened(prompt + answer)
        last_s = None
        async for _ in session.generate([0] * prompt, limit=answer):
            if last_s is not None:
                longest_wait[index] = max(longest_wait[index], clock.now() - last_s)
            last_s = clock.now()
        await session.close()
        took[index] = clock.now() - at_s

    await asyncio.gather(*(job(index, *one) for index, one in enumerate(jobs)))
    await engine.stop()
    await serving
    return took, longest_wait


def mixed_trace(*, seed: int, jobs: int = 300) -> list[tuple[float, int, int]]:
    """Nineteen short answers for each long one, arriving about a quarter faster than eight places can serve."""
    chance = random.Random(seed)
    at_s, found = 0.0, []
    for _ in range(jobs):
        at_s += chance.expovariate(1 / 0.22)
        answer = 1024 if chance.random() < 0.05 else chance.randint(8, 64)
        found.append((at_s, chance.choice((64, 512)), answer))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_feedback_queue_halves_the_mean_completion_time_and_starves_nobody(seed: int) -> None:
    trace = mixed_trace(seed=seed)
    first_come, _ = virtual_time.run(completion_times(generation_scheduler.FirstCome(max_sequences=8), trace))
    policy = generation_scheduler.SkipJoinFeedbackQueue(max_sequences=8)
    feedback, waits = virtual_time.run(completion_times(policy, trace))
    means = statistics.mean(first_come), statistics.mean(feedback)
    print(f"mean completion: first come {means[0]:.2f} s, feedback {means[1]:.2f} s")
    assert means[1] <= 0.5 * means[0]
    assert max(waits) <= 4.0  # seconds between two tokens of whoever waits longest


def test_where_pages_are_short_host_memory_lets_short_answers_overtake_all_the_same() -> None:
    """The cache holds a quarter of what is going on at worst: without host memory new prompts are refused until what
    runs has ended, however long that takes."""
    trace, policy = mixed_trace(seed=1), generation_scheduler.SkipJoinFeedbackQueue(max_sequences=8)
    first_come, _ = virtual_time.run(completion_times(generation_scheduler.FirstCome(max_sequences=8), trace))
    without, _ = virtual_time.run(completion_times(policy, trace, backend=TextBackend(num_pages=400)))
    backend = TextBackend(num_pages=400, swap_pages=4000)
    swapping, waits = virtual_time.run(completion_times(policy, trace, backend=backend))
    means = [statistics.mean(found) for found in (first_come, without, swapping)]
    print(f"mean completion: first come {means[0]:.2f} s, feedback {means[1]:.2f} s, with swap {means[2]:.2f} s")
    assert backend.moves
    assert means[2] <= 0.5 * means[0]
    assert means[2] < means[1]
    assert max(waits) <= 4.0  # seconds between two tokens of whoever waits longest


def test_no_batch_waits_for_the_cache_of_one_whose_patience_ends() -> None:
    """Five long answers take turns on pages for two of them."""
    backend = TextBackend(num_pages=48, swap_pages=400)
    policy = generation_scheduler.SkipJoinFeedbackQueue(max_sequences=1)
    virtual_time.run(completion_times(policy, [(0.0, 64, 300)] * 5, backend=backend))
    assert backend.brought_in["before"] == 0
    assert backend.brought_in["meanwhile"] > 5
