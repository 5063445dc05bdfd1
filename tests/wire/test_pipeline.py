"""A pipeline stage between a peer and the stage behind it, over real gRPC: order, errors and limits travel."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

import pytest
from tests.wire import toy_cloud

from milliner.core import clock, errors, types
from milliner.wire import client, pipeline, server, turns

BOUNDS = pipeline.StageBounds(start=2, end=5, chain_end=8, codec=types.Codec.FLOAT32)


@dataclasses.dataclass
class Pair:
    """A stage, the toy that computes for it, and the toy behind it."""

    stage: pipeline.PipelineStage
    own: toy_cloud.ToyCloud
    behind: toy_cloud.ToyCloud
    listening: server.CloudServer


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    own, behind = toy_cloud.ToyCloud(), toy_cloud.ToyCloud(max_frame_tokens=100)
    async with (
        await server.serve(behind) as listening,
        client.GrpcTransport([f"127.0.0.1:{listening.port}"]) as transport,
    ):
        stage = pipeline.PipelineStage(own, behind=transport, bounds=BOUNDS, clock=clock.LoopClock())
        yield Pair(stage, own, behind, listening)


async def until(condition: object) -> None:
    async with asyncio.timeout(5.0):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_the_narrowest_limits_hold_and_the_next_stage_is_asked_for_the_rest() -> None:
    async with pair() as two:
        opened = await two.stage.open(toy_cloud.session_open())
        assert opened.max_frame_tokens == 100
        assert two.own.opened == two.behind.opened == ["s1"]
        await two.stage.close("s1")
        assert two.own.closed == ["s1"]
        await until(lambda: two.behind.closed == ["s1"])


async def test_a_reply_comes_from_the_last_stage_with_the_durations_of_both() -> None:
    async with pair() as two:
        await two.stage.open(toy_cloud.session_open())
        asked = toy_cloud.frame(num_tokens=3, reply_positions=types.ReplyPositions.NONE)
        reply = await two.stage.forward(asked)
        assert reply.payload is None
        assert (reply.compute_s, reply.codec_s, reply.kv_len) == (0.004, 0.001, 3)
        assert two.own.frames[0].reply_positions is types.ReplyPositions.ALL
        handed_on = two.behind.frames[0]
        assert handed_on == asked  # the toy echoes: all positions went on, and the wish for a reply
        await two.stage.close("s1")


async def test_a_stage_computes_the_next_chunk_while_the_one_behind_it_works_on_the_last() -> None:
    async with pair() as two:
        await two.stage.open(toy_cloud.session_open())
        two.behind.gate.clear()
        async with asyncio.TaskGroup() as group:
            waits = [
                group.create_task(two.stage.forward(toy_cloud.frame(start_pos=start, num_tokens=4)))
                for start in (0, 4, 8)
            ]
            await until(lambda: len(two.own.frames) == 3 and len(two.behind.frames) == 3)
            assert not any(wait.done() for wait in waits)
            two.behind.gate.set()
        assert [wait.result().start_pos for wait in waits] == [0, 4, 8]
        await two.stage.close("s1")


async def test_frames_are_handed_on_in_their_order_however_long_each_takes() -> None:
    async with pair() as two:
        await two.stage.open(toy_cloud.session_open())
        two.own.delay_s = {0: 0.1, 1: 0.0}
        frames = [toy_cloud.frame(round_index=index, start_pos=4 * index, num_tokens=4) for index in (0, 1)]
        replies = await asyncio.gather(*(two.stage.forward(frame) for frame in frames))
        assert [reply.round for reply in replies] == [0, 1]
        assert [frame.round for frame in two.behind.frames] == [0, 1]
        await two.stage.close("s1")


async def test_what_this_stage_refuses_never_reaches_the_next_and_the_session_goes_on() -> None:
    async with pair() as two:
        await two.stage.open(toy_cloud.session_open())
        two.own.refuse_frame[3] = errors.PositionMismatch("a gap", field="start_pos")
        with pytest.raises(errors.PositionMismatch):
            await two.stage.forward(toy_cloud.frame(round_index=3))
        assert (await two.stage.forward(toy_cloud.frame(round_index=4))).round == 4
        assert [frame.round for frame in two.behind.frames] == [4]
        await two.stage.close("s1")


@pytest.mark.parametrize(
    "refusal", [errors.PositionMismatch("a gap", field="start_pos"), errors.ShapeMismatch("NaN", field="payloads")]
)
async def test_what_the_next_stage_refuses_ends_the_session(refusal: errors.MillinerError) -> None:
    async with pair() as two:
        await two.stage.open(toy_cloud.session_open())
        two.behind.refuse_frame[1] = refusal
        for _ in range(2):  # a second frame, too: the stages hold different positions
            with pytest.raises(errors.UnavailableError, match="layers from 5 on was lost"):
                await two.stage.forward(toy_cloud.frame(round_index=1))
        assert len(two.own.frames) == 1
        await two.stage.close("s1")


async def test_a_next_stage_that_goes_away_ends_the_session() -> None:
    async with pair() as two:
        await two.stage.open(toy_cloud.session_open())
        two.behind.gate.clear()
        waiting = asyncio.create_task(two.stage.forward(toy_cloud.frame()))
        await until(lambda: two.behind.frames)
        await two.listening.stop()
        with pytest.raises(errors.UnavailableError):
            await waiting
        await two.stage.close("s1")


async def test_no_room_behind_is_told_as_such_and_leaves_nothing_open() -> None:
    async with pair() as two:
        two.behind.refuse_open = errors.KVCacheFull("full", field="max_positions", retry_after_s=3.0)
        with pytest.raises(errors.KVCacheFull) as refused:
            await two.stage.open(toy_cloud.session_open())
        assert refused.value.retry_after_s == 3.0
        assert two.own.closed == ["s1"]


async def test_another_model_behind_is_not_the_devices_fault() -> None:
    async with pair() as two:
        two.behind.refuse_open = errors.DigestMismatch("another model", field="model_digest")
        with pytest.raises(errors.UnavailableError, match="another model"):
            await two.stage.open(toy_cloud.session_open())
        assert two.own.closed == ["s1"]


@pytest.mark.parametrize(("start", "end", "field"), [(2, 5, "slice_end"), (5, 8, "slice_start")])
async def test_a_peer_must_ask_for_the_layers_of_the_whole_chain(start: int, end: int, field: str) -> None:
    async with pair() as two:
        with pytest.raises(errors.ShapeMismatch, match=r"this chain serves \[2, 8\)") as refused:
            await two.stage.open(dataclasses.replace(toy_cloud.session_open(), slice_start=start, slice_end=end))
        assert refused.value.field == field
        assert two.own.opened == []


def test_the_load_of_a_chain_is_the_slowest_stages_and_the_narrowest_ones() -> None:
    quick = types.LoadReport(delay_fixed_s=0.02, delay_per_token_s=0.0, waiting_frames=1, kv_used_share=0.9)
    slow = types.LoadReport(
        delay_fixed_s=0.01, delay_per_token_s=0.001, waiting_frames=2, kv_used_share=0.1, max_chunk_tokens=64
    )
    for first, second in ((quick, slow), (slow, quick)):
        assert pipeline.chain_load(first, second) == types.LoadReport(
            delay_fixed_s=0.01, delay_per_token_s=0.001, waiting_frames=3, kv_used_share=0.9, max_chunk_tokens=64
        )


async def test_a_turn_given_up_early_lets_nobody_pass_those_before() -> None:
    line, order = turns.Turns(), list[str]()

    async def use(turn: turns.Turn, name: str) -> None:
        with turn:
            await turn.come()
            order.append(name)

    first, second, third = line.take(), line.take(), line.take()
    with second:
        pass
    waiting = asyncio.create_task(use(third, "third"))
    await asyncio.sleep(0)
    assert order == []
    await use(first, "first")
    await waiting
    assert order == ["first", "third"]
