"""The engine over a toy backend: positions, idempotence, batching, fairness, cancelling, expiry, refusals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Sequence

import pytest

from milliner.core import clock as clocks
from milliner.core import compute, errors, ports
from milliner.core.types import FrameKind, ReplyPositions
from milliner.engine import engine, executor, limits, scheduler, work

from . import toys

CONFIG = limits.EngineConfig(
    kv_cache_bytes=0, max_batch_tokens=8, max_sessions=4, session_idle_s=100, max_frame_tokens=24
)


@contextlib.asynccontextmanager
async def serving(
    backend: toys.ToyBackend,
    *,
    config: limits.EngineConfig = CONFIG,
    clock: ports.Clock | None = None,
    cost: compute.ComputeCost | None = None,
    policy: scheduler.SchedulingPolicy | None = None,
) -> AsyncIterator[engine.Engine]:
    worker = executor.ComputeExecutor(name="test")
    built = engine.Engine(
        backend, config=config, executor=worker, clock=clock or clocks.LoopClock(), cost=cost, policy=policy
    )
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(built.run())
            yield built
            await built.stop()
    finally:
        worker.close()


class Gate:
    """Holds the backend before its next batch, so that a test can queue work behind it."""

    def __init__(self, backend: toys.ToyBackend) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        backend.gate = self._wait

    def _wait(self) -> None:
        self.entered.set()
        assert self.opened.wait(10)

    async def until_busy(self) -> None:
        await asyncio.to_thread(self.entered.wait, 10)


def values(done: work.Done) -> str:
    assert done.payload is not None
    return done.payload.data.decode()


async def test_frames_continue_and_new_rounds_roll_back() -> None:
    backend = toys.ToyBackend()
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        assert (await cloud.forward(toys.frame(start=0, tokens=3, round_index=0))).kv_len == 3
        assert (await cloud.forward(toys.frame(start=3, tokens=3, round_index=0, commit=0))).kv_len == 6
        done = await cloud.forward(toys.frame(start=2, tokens=2, round_index=1, decode=lambda: [70.0, 80.0]))
        assert done.kv_len == 4
        assert values(done) == "[0.0, 1.0, 70.0, 80.0]"


async def test_durations_sum_to_the_time_in_the_engine_and_padding_counts_as_compute() -> None:
    backend = toys.ToyBackend()
    async with serving(backend, cost=compute.ComputeCost(fixed_s=0.02, per_token_s=0.005)) as cloud:
        await cloud.open(toys.session_open())
        start_s = asyncio.get_running_loop().time()
        done = await cloud.forward(toys.frame(tokens=4))
        total_s = asyncio.get_running_loop().time() - start_s
        assert done.compute_s + done.codec_s >= 0.04
        assert done.queue_s + done.compute_s + done.codec_s <= total_s
        assert done.batched_tokens == 4
        report = cloud.load()
        assert report.delay_fixed_s + 4 * report.delay_per_token_s == pytest.approx(
            done.compute_s + done.codec_s, rel=0.2
        )


async def test_a_repeated_frame_is_answered_from_memory_and_computed_once() -> None:
    backend = toys.ToyBackend()
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        frame = toys.frame(tokens=3)
        first = await cloud.forward(frame)
        assert await cloud.forward(frame) == first
        assert len(backend.batches) == 1


async def test_an_answered_frames_bytes_are_not_kept() -> None:
    """A prompt's payloads are megabytes, and its round is remembered until the next one begins."""

    class Payload:
        def read(self) -> list[float]:
            return [0.0, 1.0]

    payload = Payload()
    kept = weakref.ref(payload)
    backend = toys.ToyBackend()
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        await cloud.forward(toys.frame(tokens=2, decode=payload.read))
        await cloud.forward(toys.frame(start=2, round_index=0, commit=2))
        del payload
        gc.collect()
        assert kept() is None


async def test_a_repeat_of_a_frame_under_way_waits_for_the_same_result() -> None:
    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        both = [asyncio.create_task(cloud.forward(toys.frame(tokens=3))) for _ in range(2)]
        await gate.until_busy()
        both[0].cancel()
        gate.opened.set()
        assert (await both[1]).kv_len == 3
        assert len(backend.batches) == 1


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (toys.frame(round_index=1, start=6, tokens=1), "round"),  # late
        (toys.frame(round_index=2, start=6, tokens=2), "start_pos"),  # same name, other content
        (toys.frame(round_index=2, start=8, tokens=1), "commit_pos"),  # a gap
        (toys.frame(round_index=2, start=8, commit=7, tokens=1), "start_pos"),  # a gap behind the commit
        (toys.frame(round_index=2, start=3, tokens=1), "start_pos"),  # back without a new round
        (toys.frame(round_index=3, start=5, commit=4, tokens=1), "start_pos"),  # a round starts at its commit
        (toys.frame(round_index=3, start=9, tokens=1), "commit_pos"),
        (toys.frame(round_index=3, start=-1, tokens=1), "commit_pos"),
        (toys.frame(round_index=3, start=7, tokens=10), "start_pos"),  # beyond what the session was opened for
        (toys.frame(round_index=3, start=7, tokens=0), "payloads"),
        (toys.frame(round_index=3, start=7, tokens=25), "payloads"),
        (toys.frame("b", start=0, tokens=1), "session_id"),
    ],
)
async def test_a_frame_out_of_place_is_refused_and_changes_nothing(frame: work.Work, field: str) -> None:
    backend = toys.ToyBackend()
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        await cloud.forward(toys.frame(round_index=1, start=0, tokens=6))
        await cloud.forward(toys.frame(round_index=2, start=6, tokens=1))
        with pytest.raises(errors.ProtocolError) as refusal:
            await cloud.forward(frame)
        assert refusal.value.field == field
        done = await cloud.forward(toys.frame(round_index=2, start=7, tokens=1, commit=6))
        assert values(done) == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]"


async def test_frames_of_many_sessions_share_a_batch_with_verification_first() -> None:
    backend = toys.ToyBackend()
    async with serving(backend) as cloud:
        for name in "abc":
            await cloud.open(toys.session_open(name))
        gate = Gate(backend)
        first = asyncio.create_task(cloud.forward(toys.frame("a", tokens=1)))
        await gate.until_busy()
        rest = [
            asyncio.create_task(
                cloud.forward(toys.frame("b", tokens=12, kind=FrameKind.CHUNK, reply=ReplyPositions.NONE))
            ),
            asyncio.create_task(cloud.forward(toys.frame("c", tokens=3))),
        ]
        await toys.settle()
        assert cloud.load().waiting_frames == 3
        gate.opened.set()
        _, chunk, verified = await asyncio.gather(first, *rest)
        assert backend.batches[1] == [("b", 0, 5), ("c", 0, 3)]  # the chunk has what verification left of 8 tokens
        assert backend.batches[2] == [("b", 5, 7)]
        assert (chunk.payload, chunk.kv_len, chunk.batched_tokens) == (None, 12, 8)
        assert verified.batched_tokens == 8


async def test_chunks_sent_without_waiting_are_computed_in_order_and_together() -> None:
    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        chunks = [toys.frame(start=at, tokens=2, round_index=0, kind=FrameKind.CHUNK) for at in (0, 2, 4, 6)]
        tasks = [asyncio.create_task(cloud.forward(chunk)) for chunk in chunks]
        await gate.until_busy()
        gate.opened.set()
        assert [(await task).kv_len for task in tasks] == [2, 4, 6, 8]
        assert backend.batches == [[("a", at, 2) for at in (0, 2, 4, 6)]]


async def test_a_frame_that_cannot_be_read_fails_alone_and_may_be_sent_again() -> None:
    def broken() -> object:
        raise errors.ShapeMismatch("too short", field="payloads")

    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        tasks = [
            asyncio.create_task(cloud.forward(frame))
            for frame in (
                toys.frame("a", tokens=2, round_index=0, decode=broken),
                toys.frame("a", start=2, tokens=2, round_index=0),
                toys.frame("b", tokens=2),
            )
        ]
        await gate.until_busy()
        gate.opened.set()
        bad, behind, other = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, errors.ShapeMismatch)
        assert isinstance(behind, errors.PositionMismatch)
        assert isinstance(other, work.Done)
        assert (await cloud.forward(toys.frame("a", tokens=2, round_index=0))).kv_len == 2


async def test_cancelling_a_waiting_frame_takes_it_out_of_the_queue() -> None:
    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        running = asyncio.create_task(cloud.forward(toys.frame("a")))
        await gate.until_busy()
        waiting = asyncio.create_task(cloud.forward(toys.frame("b", tokens=5)))
        await toys.settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert cloud.load().waiting_frames == 1
        gate.opened.set()
        await running
        assert (await cloud.forward(toys.frame("b", tokens=2))).kv_len == 2
        assert backend.batches == [[("a", 0, 1)], [("b", 0, 2)]]


async def test_cancelling_a_chunk_in_its_first_batch_stops_the_rest_of_it() -> None:
    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open())
        chunk = asyncio.create_task(cloud.forward(toys.frame(tokens=16, kind=FrameKind.CHUNK)))
        await gate.until_busy()
        chunk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chunk
        gate.opened.set()
        done = await cloud.forward(toys.frame(tokens=2, round_index=1, start=0))
        assert values(done) == "[0.0, 1.0]"
        assert backend.batches == [[("a", 0, 8)], [("a", 0, 2)]]


async def test_closing_a_session_under_way_fails_its_frames_and_frees_its_pages_at_once() -> None:
    backend = toys.ToyBackend(num_pages=4)
    gate = Gate(backend)
    async with serving(backend) as cloud:
        await cloud.open(toys.session_open(max_positions=16))
        task = asyncio.create_task(cloud.forward(toys.frame(tokens=3)))
        await gate.until_busy()
        await cloud.close("a")
        await cloud.close("a")
        with pytest.raises(errors.UnknownSession):
            await task
        assert cloud.load().kv_used_share == 0.0
        gate.opened.set()
        await cloud.open(toys.session_open("b", max_positions=16))
        assert values(await cloud.forward(toys.frame("b", tokens=1))) == "[0.0]"
        assert backend.released == 1


async def test_opening_is_refused_with_the_reason() -> None:
    backend = toys.ToyBackend(num_pages=8, page_tokens=4)
    async with serving(backend) as cloud:
        opened = await cloud.open(toys.session_open("a", max_positions=20))
        assert opened.max_frame_tokens == 24
        assert opened.load.kv_used_share == pytest.approx(5 / 8)
        for session_id, positions, expected in (
            ("a", 4, errors.ForeignSession),
            ("", 4, errors.UnknownSession),
            ("b", 13, errors.KVCacheFull),
            ("b", 33, errors.PositionMismatch),
        ):
            with pytest.raises(expected):
                await cloud.open(toys.session_open(session_id, max_positions=positions))
        for session_id in "bcd":
            await cloud.open(toys.session_open(session_id, max_positions=4))
        with pytest.raises(errors.TooManySessions):
            await cloud.open(toys.session_open("e", max_positions=1))
        await cloud.close("a")
        await cloud.open(toys.session_open("e", max_positions=20))


async def test_sessions_expire_when_idle_and_only_then() -> None:
    clock = toys.ManualClock()
    backend = toys.ToyBackend()
    async with serving(backend, clock=clock) as cloud:
        await toys.settle()
        for name in "ab":
            await cloud.open(toys.session_open(name))
        await clock.advance(90)
        await cloud.forward(toys.frame("a"))
        await clock.advance(40)
        assert cloud.load().running_sessions == 1
        with pytest.raises(errors.UnknownSession, match="expired"):
            await cloud.forward(toys.frame("b"))
        assert (await cloud.forward(toys.frame("a", start=1))).kv_len == 2
        await clock.advance(130)
        assert (cloud.load().running_sessions, cloud.load().kv_used_share) == (0, 0.0)


async def test_a_frame_that_waits_long_does_not_expire_its_session() -> None:
    clock = toys.ManualClock()
    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend, clock=clock) as cloud:
        await cloud.open(toys.session_open())
        task = asyncio.create_task(cloud.forward(toys.frame()))
        await gate.until_busy()
        await clock.advance(1000)
        gate.opened.set()
        done = await task
        assert done.kv_len == 1
        assert done.queue_s == pytest.approx(1000, abs=5)


async def test_stopping_fails_what_waits_and_refuses_new_sessions() -> None:
    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        running = asyncio.create_task(cloud.forward(toys.frame("a")))
        await gate.until_busy()
        waiting = asyncio.create_task(cloud.forward(toys.frame("b")))
        await toys.settle()
        stopping = asyncio.create_task(cloud.stop())
        await toys.settle()
        gate.opened.set()
        await stopping
        assert (await running).kv_len == 1
        with pytest.raises(errors.UnavailableError):
            await waiting
        with pytest.raises(errors.UnavailableError):
            await cloud.open(toys.session_open("c"))


async def test_stopping_an_engine_that_never_ran_returns() -> None:
    worker = executor.ComputeExecutor(name="test")
    cloud = engine.Engine(toys.ToyBackend(), config=CONFIG, executor=worker, clock=clocks.LoopClock())
    await asyncio.wait_for(cloud.stop(), 1)
    worker.close()


async def test_warm_up_teaches_the_delay_model_before_the_first_frame() -> None:
    backend = toys.ToyBackend(num_pages=64)
    async with serving(backend, cost=compute.ComputeCost(fixed_s=0.01, per_token_s=0.001)) as cloud:
        await cloud.warm_up()
        assert max(backend.measured) <= CONFIG.max_batch_tokens
        report = cloud.load()
        assert report.delay_fixed_s + 8 * report.delay_per_token_s == pytest.approx(0.018, rel=0.2)


async def test_a_session_that_idled_gets_no_credit_for_it() -> None:
    """Without the floor a newcomer's prompt would hold up everyone who was served before it came."""
    backend = toys.ToyBackend(num_pages=400)
    config = limits.EngineConfig(kv_cache_bytes=0, max_batch_tokens=8, max_frame_tokens=64)
    async with serving(backend, config=config) as cloud:
        for name in "abc":
            await cloud.open(toys.session_open(name, max_positions=100))
        for start in (0, 32):
            frame = toys.frame("a", start=start, tokens=32, kind=FrameKind.CHUNK)
            await asyncio.gather(cloud.forward(frame), cloud.forward(toys.frame("b", start=start, tokens=32)))
        gate = Gate(backend)
        done_before = len(backend.batches)
        tasks = [
            asyncio.create_task(
                cloud.forward(toys.frame(name, start=64 if name == "a" else 0, tokens=16, kind=FrameKind.CHUNK))
            )
            for name in "ac"
        ]
        await gate.until_busy()
        gate.opened.set()
        await asyncio.gather(*tasks)
        order = [pieces[0][0] for pieces in backend.batches[done_before:]]
        assert order in (["a", "c", "a", "c"], ["c", "a", "c", "a"], ["a", "c", "c", "a"], ["c", "a", "a", "c"])


async def test_another_policy_can_be_plugged_in() -> None:
    class OneAtATime:
        def plan(self, waiting: Sequence[scheduler.Waiting], *, budget_tokens: int) -> list[scheduler.Share]:
            oldest = min(waiting, key=lambda frame: frame.ticket)
            return [scheduler.Share(oldest.ticket, min(oldest.num_tokens, budget_tokens))]

    backend = toys.ToyBackend()
    gate = Gate(backend)
    async with serving(backend, policy=OneAtATime()) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        tasks = [asyncio.create_task(cloud.forward(toys.frame(name))) for name in "ab"]
        await gate.until_busy()
        gate.opened.set()
        await asyncio.gather(*tasks)
        assert [len(batch) for batch in backend.batches] == [1, 1]
