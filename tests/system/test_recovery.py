"""Losing a cloud replica costs time, never a token."""

from __future__ import annotations

import asyncio
import contextlib
import pathlib
from collections.abc import AsyncIterator, Callable

import pytest
from tests.numerics import tiny_models
from tests.system import split_topology

from milliner.core import compute, errors, types
from milliner.engine import engine as engines
from milliner.engine import work
from milliner.engine.device import device_model
from milliner.strategies import options as strategy_options

SLOW_CLOUD = compute.ComputeCost(fixed_s=0.005)


@pytest.mark.parametrize("lost_after_tokens", [1, 9, 25])
@pytest.mark.parametrize("codec", [types.Codec.FLOAT32, types.Codec.INT8])
async def test_an_answer_goes_on_at_the_same_token_on_another_replica(
    lost_after_tokens: int, codec: types.Codec, tmp_path: pathlib.Path
) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=0.1)
    prompt = tiny_models.prompt(90).remainder(67).tolist()
    files = device_model.DeviceFiles(model, 2, adapter=drafter)
    options = strategy_options.HatOptions(
        codec=strategy_options.CodecOptions(prompt=codec, exact_tail_tokens=10),
        recovery=strategy_options.RecoveryOptions(wait_s=5.0, retry_s=0.05),
    )
    async with split_topology.running(files, num_replicas=2, cloud_cost=SLOW_CLOUD) as topology:
        undisturbed = await split_topology.answer(topology.strategy(options), prompt, 40)
        used = split_topology.new_record(len(prompt))
        request = types.GenerationRequest(request_id="test", prompt_ids=tuple(prompt), max_new_tokens=40)
        said: list[int] = []
        lost: list[split_topology.Replica] = []
        async with contextlib.aclosing(topology.strategy(options).generate(request, used)) as emissions:
            async for emission in emissions:
                said.extend(token.token_id for token in emission.tokens)
                if len(said) >= lost_after_tokens and not lost:
                    lost = [replica for replica in topology.replicas if replica.listening.open_sessions]
                    assert len(lost) == 1
                    await lost[0].listening.stop(0)
    assert said == undisturbed
    assert used.finish(finish_reason="length").counters["recoveries"] == 1


async def test_without_another_replica_the_request_fails_in_time_and_names_the_field(tmp_path: pathlib.Path) -> None:
    model, _ = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=1.0)
    options = strategy_options.UShapeOptions(recovery=strategy_options.RecoveryOptions(wait_s=0.5, retry_s=0.05))
    async with split_topology.running(device_model.DeviceFiles(model, 2)) as topology:
        await topology.replicas[0].listening.stop(0)
        async with asyncio.timeout(10):
            with pytest.raises(errors.UnavailableError, match="no replica took over"):
                await split_topology.answer(topology.strategy(options), [1, 2, 3], 8)


async def test_cancelling_frees_both_tiers(tmp_path: pathlib.Path) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=0.1)
    files = device_model.DeviceFiles(model, 2, adapter=drafter)
    async with split_topology.running(files, cloud_cost=SLOW_CLOUD) as topology:
        generator = topology.strategy(strategy_options.HatOptions())
        for delay_s in (0.0, 0.02, 0.1, 0.3):
            task = asyncio.create_task(split_topology.answer(generator, list(range(60)), 60))
            await asyncio.sleep(delay_s)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with asyncio.timeout(5):
            while topology.replicas[0].engine.load().running_sessions:
                await asyncio.sleep(0.01)
        assert topology.device.used_share == 0.0
        assert len(await split_topology.answer(generator, list(range(60)), 5)) == 5


async def test_a_full_replica_that_was_opened_eagerly_is_replaced_by_another(tmp_path: pathlib.Path) -> None:
    model, _ = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=1.0)
    prompt = tiny_models.prompt(30).remainder(67).tolist()
    options = strategy_options.UShapeOptions(recovery=strategy_options.RecoveryOptions(wait_s=5.0))
    async with split_topology.running(device_model.DeviceFiles(model, 2), num_replicas=2) as topology:
        generator = topology.strategy(options)
        expected = await split_topology.answer(generator, prompt, 8)
        assert await split_topology.answer(generator, prompt, 8) == expected  # both replicas have admitted one now
        for replica in topology.replicas:
            async with fill(replica.engine):
                used = split_topology.new_record()
                assert await split_topology.answer(generator, prompt, 8, request_record=used) == expected
        async with fill(topology.replicas[0].engine), fill(topology.replicas[1].engine):
            with pytest.raises(errors.CapacityError):
                await split_topology.answer(generator, prompt, 8)


@contextlib.asynccontextmanager
async def fill(engine: engines.Engine) -> AsyncIterator[None]:
    """Takes all sessions that the engine admits, once those of earlier requests have ended there."""
    async with asyncio.timeout(5):
        while engine.load().running_sessions:
            await asyncio.sleep(0.005)
    held: list[str] = []
    try:
        with contextlib.suppress(errors.CapacityError):
            for index in range(10_000):
                request = types.SessionOpen(f"held-{index}", "", 0, 0, 32, max_positions=16)
                await engine.open(request)
                held.append(request.session_id)
        yield
    finally:
        for session_id in held:
            await engine.close(session_id)


class FlakyEngine:
    """Loses sessions on demand: a frame that `loses` says of ends as if the replica were gone, `times` times."""

    def __init__(self, engine: engines.Engine, loses: Callable[[work.Work], bool], *, times: int) -> None:
        self.forward = engine.forward
        self._loses = loses
        self._times = times
        self.lost = 0

    async def __call__(self, frame: work.Work) -> work.Done:
        done = await self.forward(frame)
        if self._loses(frame) and self.lost < self._times:
            self.lost += 1
            raise errors.UnavailableError("the replica went away")
        return done


def starts_at(position: int) -> Callable[[work.Work], bool]:
    return lambda frame: frame.start_pos == position


@pytest.mark.parametrize("tail_layers", [0, 1])
async def test_a_replica_lost_in_prefill_changes_no_token(tail_layers: int, tmp_path: pathlib.Path) -> None:
    model, _ = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=1.0)
    prompt = tiny_models.prompt(60).remainder(67).tolist()
    chunking = strategy_options.ChunkingOptions(mode=strategy_options.ChunkingMode.FIXED, fixed_tokens=10)
    options = strategy_options.UShapeOptions(chunking=chunking)
    async with split_topology.running(device_model.DeviceFiles(model, 2, tail_layers)) as topology:
        expected = await split_topology.answer(topology.strategy(options), prompt, 12)
        assert expected == split_topology.reference(model, prompt, 12)
        for lost_at in (0, 20, 50):
            engine = topology.replicas[0].engine
            flaky = FlakyEngine(engine, starts_at(lost_at), times=1)
            engine.forward = flaky  # type: ignore[method-assign]
            used = split_topology.new_record(len(prompt))
            said = await split_topology.answer(topology.strategy(options), prompt, 12, request_record=used)
            engine.forward = flaky.forward  # type: ignore[method-assign]
            assert flaky.lost == 1
            assert said == expected
            assert used.finish(finish_reason="length").counters["recoveries"] == 1


async def test_a_frame_that_ends_every_session_does_not_go_on_for_ever(tmp_path: pathlib.Path) -> None:
    model, _ = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=1.0)
    options = strategy_options.UShapeOptions(recovery=strategy_options.RecoveryOptions(wait_s=0.5, retry_s=0.05))
    async with split_topology.running(device_model.DeviceFiles(model, 2)) as topology:
        engine = topology.replicas[0].engine
        engine.forward = FlakyEngine(engine, lambda frame: frame.round == 3, times=10_000)  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            with pytest.raises(errors.UnavailableError, match="no replica took over"):
                await split_topology.answer(topology.strategy(options), [1, 2, 3], 8)


async def test_drafting_ahead_stays_inside_the_context(tmp_path: pathlib.Path) -> None:
    model, drafter = split_topology.write_agreeing_pair(tmp_path, split_layer=2, deep_share=0.0)
    prompt = tiny_models.prompt(460).remainder(67).tolist()  # with 52 new tokens exactly the model's 512 positions
    options = strategy_options.HatOptions(
        drafting=strategy_options.DraftingOptions(control=strategy_options.DraftControl.FIXED, min_confidence=0.0)
    )
    files = device_model.DeviceFiles(model, 2, adapter=drafter)
    async with split_topology.running(files, cloud_cost=compute.ComputeCost(fixed_s=0.05)) as topology:
        said = await split_topology.answer(topology.strategy(options), prompt, 52)
    assert said == split_topology.reference(model, prompt, 52)
