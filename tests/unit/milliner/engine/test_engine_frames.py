"""Frames over a toy backend: positions, rollback, repeats, refusals, failures, cancelling."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from milliner.core import errors
from milliner.core.types import FrameKind
from milliner.engine import work

from . import running, toys


async def test_frames_continue_and_new_rounds_roll_back() -> None:
    backend = toys.ToyBackend()
    async with running.serving(backend) as cloud:
        await cloud.open(toys.session_open())
        assert (await cloud.forward(toys.frame(start=0, tokens=3, round_index=0))).kv_len == 3
        assert (await cloud.forward(toys.frame(start=3, tokens=3, round_index=0, commit=0))).kv_len == 6
        done = await cloud.forward(toys.frame(start=2, tokens=2, round_index=1, decode=lambda: [70.0, 80.0]))
        assert done.kv_len == 4
        assert running.values(done) == "[0.0, 1.0, 70.0, 80.0]"


async def test_a_repeated_frame_is_answered_from_memory_and_computed_once() -> None:
    backend = toys.ToyBackend()
    async with running.serving(backend) as cloud:
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
    async with running.serving(backend) as cloud:
        await cloud.open(toys.session_open())
        await cloud.forward(toys.frame(tokens=2, decode=payload.read))
        await cloud.forward(toys.frame(start=2, round_index=0, commit=2))
        del payload
        gc.collect()
        assert kept() is None


async def test_a_repeat_of_a_frame_under_way_waits_for_the_same_result() -> None:
    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
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
    async with running.serving(backend) as cloud:
        await cloud.open(toys.session_open())
        await cloud.forward(toys.frame(round_index=1, start=0, tokens=6))
        await cloud.forward(toys.frame(round_index=2, start=6, tokens=1))
        with pytest.raises(errors.ProtocolError) as refusal:
            await cloud.forward(frame)
        assert refusal.value.field == field
        done = await cloud.forward(toys.frame(round_index=2, start=7, tokens=1, commit=6))
        assert running.values(done) == "[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]"


async def test_a_frame_that_cannot_be_read_fails_alone_and_may_be_sent_again() -> None:
    def broken() -> object:
        raise errors.ShapeMismatch("too short", field="payloads")

    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
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
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
        for name in "ab":
            await cloud.open(toys.session_open(name))
        under_way = asyncio.create_task(cloud.forward(toys.frame("a")))
        await gate.until_busy()
        waiting = asyncio.create_task(cloud.forward(toys.frame("b", tokens=5)))
        await toys.settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert cloud.load().waiting_frames == 1
        gate.opened.set()
        await under_way
        assert (await cloud.forward(toys.frame("b", tokens=2))).kv_len == 2
        assert backend.batches == [[("a", 0, 1)], [("b", 0, 2)]]


async def test_cancelling_a_chunk_in_its_first_batch_stops_the_rest_of_it() -> None:
    backend = toys.ToyBackend()
    gate = running.Gate(backend)
    async with running.serving(backend) as cloud:
        await cloud.open(toys.session_open())
        chunk = asyncio.create_task(cloud.forward(toys.frame(tokens=16, kind=FrameKind.CHUNK)))
        await gate.until_busy()
        chunk.cancel()
        with pytest.raises(asyncio.CancelledError):
            await chunk
        gate.opened.set()
        done = await cloud.forward(toys.frame(tokens=2, round_index=1, start=0))
        assert running.values(done) == "[0.0, 1.0]"
        assert backend.batches == [[("a", 0, 8)], [("a", 0, 2)]]
