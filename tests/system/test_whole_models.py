"""DeviceOnly, CloudOnly and P/D-Device give what the model gives, wherever the answer changes tiers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import pathlib
import secrets
from collections.abc import AsyncIterator

import pytest
from tests.system import split_topology, whole_tiers

from milliner.core import clock, compute, errors, generation, types
from milliner.strategies import base, cloud_tokens, openings, whole_request
from milliner.strategies import options as strategy_options
from milliner.strategies.cloud_only import strategy as cloud_only
from milliner.strategies.device_only import strategy as device_only
from milliner.strategies.pd_device import strategy as pd_device
from milliner.telemetry import record

NEW_TOKENS = 24
PROMPT = tuple((7 * index + 3) % 60 + 1 for index in range(45))
SLOW = compute.ComputeCost(0.002, 0.0005)  # a device whose prefill takes as long as the cloud's first tokens
QUICK = strategy_options.PDDeviceOptions(max_cloud_tokens=NEW_TOKENS, min_interval_s=0.0, max_interval_s=0.002)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    written, _ = split_topology.write_agreeing_pair(tmp_path_factory.mktemp("whole"), split_layer=2, deep_share=1.0)
    return written


def device_ports(tier: whole_tiers.Tier) -> whole_request.DevicePorts:
    return whole_request.DevicePorts(clock=clock.LoopClock(), model=tier.model)


def cloud_ports(
    tier: whole_tiers.Tier, transport: whole_tiers.DirectTransport, *, wait_s: float = 5.0
) -> cloud_tokens.CloudPorts:
    return cloud_tokens.CloudPorts(
        clock=clock.LoopClock(),
        transport=transport,
        info=tier.model.info,
        new_session_id=lambda: secrets.token_hex(8),
        openings=openings.Openings(max_wait_s=wait_s),
    )


async def answer(
    strategy: base.Generator,
    prompt: tuple[int, ...] = PROMPT,
    *,
    new_tokens: int = NEW_TOKENS,
    sampling: types.SamplingParams = split_topology.GREEDY,
    stop_token_ids: frozenset[int] = frozenset(),
) -> tuple[list[types.EmittedToken], types.FinishReason | None]:
    request = types.GenerationRequest(
        request_id="r", prompt_ids=prompt, max_new_tokens=new_tokens, sampling=sampling, stop_token_ids=stop_token_ids
    )
    told = record.RequestRecord(
        clock=clock.LoopClock(), request_id="r", operation="text_completion", model="m", strategy="s"
    )
    tokens: list[types.EmittedToken] = []
    reason = None
    async with asyncio.timeout(120), contextlib.aclosing(strategy.generate(request, told)) as emissions:
        async for emission in emissions:
            tokens += emission.tokens
            reason = emission.finish_reason or reason
    told.finish(finish_reason=reason)
    return tokens, reason


def ids(tokens: list[types.EmittedToken]) -> list[int]:
    return [token.token_id for token in tokens]


async def test_the_device_alone_gives_the_models_answer(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE, max_frame_tokens=16) as device:
        strategy = device_only.DeviceOnly(device_ports(device))
        tokens, reason = await answer(strategy)
        assert ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
        assert reason is types.FinishReason.LENGTH
        assert device.engine.load().running_sessions == 0


async def test_many_at_once_share_batches_and_keep_their_answers(folder: pathlib.Path) -> None:
    prompts = [tuple((seed * 11 + 5 * index) % 60 + 1 for index in range(9 + seed)) for seed in range(8)]
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE) as device:
        strategy = device_only.DeviceOnly(device_ports(device))
        calls = device.worker.calls
        answers = await asyncio.gather(*(answer(strategy, prompt) for prompt in prompts))
        for prompt, (tokens, _) in zip(prompts, answers, strict=True):
            assert ids(tokens) == split_topology.reference(folder, prompt, NEW_TOKENS)
        # alone they would take 8 x 24 batches; a few more than 24 is what opening one after the other costs
        assert device.worker.calls - calls <= NEW_TOKENS + 2 * len(prompts)


async def test_the_cloud_alone_gives_the_models_answer_through_the_loss_of_a_stream(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as cloud:
        transport = whole_tiers.DirectTransport(whole_tiers.service(cloud))
        strategy = cloud_only.CloudOnly(
            cloud_ports(cloud, transport), strategy_options.RecoveryOptions(wait_s=5.0, retry_s=0.01)
        )
        for lose_after in (None, 7, 1):
            transport.given.clear()
            transport.lose_after = lose_after
            tokens, _ = await answer(strategy)
            assert ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
            assert sum(transport.given) == NEW_TOKENS
        assert cloud.engine.load().running_sessions == 0


@pytest.mark.parametrize(("room", "asked"), [(7, 7), (0, 1)])
async def test_a_cloud_without_room_for_all_is_asked_for_what_fits(folder: pathlib.Path, room: int, asked: int) -> None:
    """Where nothing fits it is asked all the same: it may have grown."""
    holds = len(PROMPT) + room
    found: list[int] = []

    class Small(whole_tiers.DirectTransport):
        async def open(self, request: generation.GenerationOpen) -> whole_tiers.DirectStream:
            found.append(request.max_tokens)
            if len(request.prompt_ids) + request.max_tokens > holds:
                raise errors.PromptTooLong("too long", field="prompt")
            return await super().open(request)

    async with (
        whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as cloud,
        whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE, cost=SLOW) as device,
    ):
        transport = Small(whole_tiers.service(cloud))
        scope = dataclasses.replace(cloud_ports(cloud, transport), max_positions=lambda: holds)
        fixed = dataclasses.replace(QUICK, fixed_cloud_tokens=True)
        for options in (fixed, QUICK):
            tokens, _ = await answer(pd_device.PDDevice(scope, device_ports(device), options))
            assert ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
        assert found[0] == max(found) == asked
        assert sum(transport.given) <= 2 * room


@pytest.mark.parametrize("refusals", [2, 1_000_000])
async def test_a_cloud_that_is_full_only_after_it_has_admitted_is_asked_again(
    folder: pathlib.Path, refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    class Full(whole_tiers.DirectStream):
        async def receive(self) -> generation.CloudToken:
            raise errors.CapacityError("the queue is full", retry_after_s=0.01)

    class Transport(whole_tiers.DirectTransport):
        async def open(self, request: generation.GenerationOpen) -> whole_tiers.DirectStream:
            found = await super().open(request)
            opened.append(len(request.prompt_ids))
            return Full(self, self._service, found.opened) if len(opened) <= refusals else found

    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as cloud:
        scope = cloud_ports(cloud, Transport(whole_tiers.service(cloud)))
        strategy = cloud_only.CloudOnly(scope, strategy_options.RecoveryOptions(wait_s=0.0))
        if refusals > 2:
            monkeypatch.setattr(openings, "MAX_WAIT_S", 0.1)
            with pytest.raises(errors.CapacityError):
                await answer(strategy)
        else:
            tokens, _ = await answer(strategy)
            assert ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
            assert len(opened) == 3
        assert cloud.engine.load().running_sessions == 0


async def test_a_cloud_that_stays_away_fails_the_answer_in_time(folder: pathlib.Path) -> None:
    async with whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as cloud:
        transport = whole_tiers.DirectTransport(whole_tiers.service(cloud))
        transport.lose_after = 0
        strategy = cloud_only.CloudOnly(
            cloud_ports(cloud, transport), strategy_options.RecoveryOptions(wait_s=0.05, retry_s=0.01)
        )
        with pytest.raises(errors.UnavailableError, match="gone"):
            await answer(strategy)


@contextlib.asynccontextmanager
async def both_tiers(
    folder: pathlib.Path,
    *,
    options: strategy_options.PDDeviceOptions = QUICK,
    device_cost: compute.ComputeCost | None = None,
) -> AsyncIterator[tuple[pd_device.PDDevice, whole_tiers.DirectTransport, whole_tiers.Tier, whole_tiers.Tier]]:
    async with (
        whole_tiers.tier(folder, origin=types.TokenOrigin.CLOUD) as cloud,
        whole_tiers.tier(folder, origin=types.TokenOrigin.DEVICE, cost=device_cost) as device,
    ):
        transport = whole_tiers.DirectTransport(whole_tiers.service(cloud))
        yield (
            pd_device.PDDevice(cloud_ports(cloud, transport), device_ports(device), options),
            transport,
            cloud,
            device,
        )


@pytest.mark.parametrize("given", [0, 1, 2, 5, 11, 23, 24, None])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
async def test_the_answer_is_the_same_wherever_the_device_takes_over(
    folder: pathlib.Path, given: int | None, temperature: float
) -> None:
    sampling = types.SamplingParams(temperature=temperature, seed=5)
    async with both_tiers(folder, device_cost=compute.ComputeCost(0.002, 0.0005)) as (
        strategy,
        transport,
        cloud,
        device,
    ):
        expected, _ = await answer(device_only.DeviceOnly(device_ports(device)), sampling=sampling)
        transport.lose_after = given
        tokens, reason = await answer(strategy, sampling=sampling)
        assert ids(tokens) == ids(expected)
        if temperature == 0.0:
            assert ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
        assert reason is types.FinishReason.LENGTH
        origins = [token.origin for token in tokens]
        assert origins == sorted(origins, key=[types.TokenOrigin.CLOUD, types.TokenOrigin.DEVICE].index)
        if given is not None:
            assert origins.count(types.TokenOrigin.CLOUD) <= given
        assert cloud.engine.load().running_sessions == device.engine.load().running_sessions == 0


async def test_a_stop_token_ends_the_answer_on_either_tier(folder: pathlib.Path) -> None:
    whole = split_topology.reference(folder, PROMPT, NEW_TOKENS)
    async with both_tiers(folder, device_cost=compute.ComputeCost(0.002, 0.0005)) as (
        strategy,
        transport,
        cloud,
        device,
    ):
        for at in (0, 1, 8, 20):
            stop = whole[at]
            expected = whole[: whole.index(stop)]
            for given in (None, 1, 8):
                transport.lose_after = given
                tokens, reason = await answer(strategy, stop_token_ids=frozenset({stop}))
                assert ids(tokens) == expected
                assert reason is types.FinishReason.STOP
        assert cloud.engine.load().running_sessions == device.engine.load().running_sessions == 0


async def test_a_slow_cloud_is_not_waited_for(folder: pathlib.Path) -> None:
    async with both_tiers(folder) as (strategy, transport, cloud, _):
        transport.delay_s = 5.0
        tokens, _ = await answer(strategy)
        assert ids(tokens) == split_topology.reference(folder, PROMPT, NEW_TOKENS)
        assert {token.origin for token in tokens} == {types.TokenOrigin.DEVICE}
        assert cloud.engine.load().running_sessions == 0


async def test_whoever_leaves_in_mid_answer_leaves_nothing_behind(folder: pathlib.Path) -> None:
    async with both_tiers(folder, device_cost=SLOW) as (strategy, _, cloud, device):
        request = types.GenerationRequest(request_id="r", prompt_ids=PROMPT, max_new_tokens=NEW_TOKENS)
        told = record.RequestRecord(
            clock=clock.LoopClock(), request_id="r", operation="text_completion", model="m", strategy="s"
        )
        async with contextlib.aclosing(strategy.generate(request, told)) as emissions:
            await anext(emissions)
        assert cloud.engine.load().running_sessions == device.engine.load().running_sessions == 0
        assert [task for task in asyncio.all_tasks() if "read_cloud" in repr(task) or "run_device" in repr(task)] == []
