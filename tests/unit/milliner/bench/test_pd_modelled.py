"""P/D-Device in virtual time, with the constants of preset pd: what must hold whatever a machine's speed.

Device: 2 ms a prompt token, 40 ms a step. Cloud: 24 ms + 210 µs a token, eight at once. 20 ms round trip.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools

import pytest

from milliner.bench.modelled import virtual_time, whole
from milliner.core import compute, types
from milliner.strategies import base, cloud_tokens, options, whole_request
from milliner.strategies.device_only import strategy as device_only
from milliner.strategies.pd_device import strategy as pd_device
from milliner.telemetry import record
from milliner.telemetry.summary import RequestSummary

DEVICE = compute.GenerationCost(prompt_token_s=2e-3, step_s=40e-3)
CLOUD = compute.ComputeCost(fixed_s=24e-3, per_token_s=210e-6)
UPLINK, ROUND_TRIP_S, TPOT_S = 10e6, 20e-3, 50e-3
CLOCK = virtual_time.VirtualClock()


@dataclasses.dataclass(frozen=True)
class Seen:
    times_s: list[float]
    cloud_tokens: int
    summary: RequestSummary

    @property
    def ttft_s(self) -> float:
        return self.times_s[0]

    @property
    def longest_gap_s(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times_s))


async def one(strategy: base.Generator, *, prompt_tokens: int, new_tokens: int) -> Seen:
    told = record.RequestRecord(
        clock=CLOCK, request_id="r", operation="text_completion", model="m", strategy="PDDevice"
    )
    request = types.GenerationRequest(request_id="r", prompt_ids=tuple(range(prompt_tokens)), max_new_tokens=new_tokens)
    start_s, times_s, tokens = CLOCK.now(), list[float](), list[types.EmittedToken]()
    async with contextlib.aclosing(strategy.generate(request, told)) as emissions:
        async for emission in emissions:
            times_s.append(CLOCK.now() - start_s)
            tokens += emission.tokens
    summary = told.finish(finish_reason="length")
    assert [token.token_id for token in tokens] == list(range(prompt_tokens, prompt_tokens + new_tokens))
    return Seen(times_s, sum(token.origin is types.TokenOrigin.CLOUD for token in tokens), summary)


@contextlib.asynccontextmanager
async def world():  # type: ignore[no-untyped-def]
    cloud = whole.ModelledTokenCloud(CLOUD, clock=CLOCK, places=8, uplink_bytes_per_s=UPLINK, round_trip_s=ROUND_TRIP_S)
    serving = asyncio.ensure_future(cloud.serve())
    ids = itertools.count()
    scope = cloud_tokens.CloudPorts(
        clock=CLOCK, transport=cloud, info=whole.INFO, new_session_id=lambda: str(next(ids))
    )
    device = whole_request.DevicePorts(clock=CLOCK, model=whole.ModelledDeviceModel(DEVICE, clock=CLOCK))
    strategy = pd_device.PDDevice(scope, device, options.PDDeviceOptions(max_interval_s=TPOT_S))
    await strategy.measure()
    try:
        yield strategy, device_only.DeviceOnly(device), cloud
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("prompt_tokens", [512, 2048])
def test_the_cloud_answers_at_once_and_the_device_takes_over_without_a_gap(prompt_tokens: int) -> None:
    async def run() -> tuple[list[Seen], Seen]:
        async with world() as (strategy, alone, _):
            seen = [await one(strategy, prompt_tokens=prompt_tokens, new_tokens=256) for _ in range(5)]
            return seen, await one(alone, prompt_tokens=prompt_tokens, new_tokens=64)

    seen, alone = virtual_time.run(run())
    first_s = ROUND_TRIP_S + CLOUD.duration_s(prompt_tokens) + 4 * prompt_tokens / UPLINK
    optimum = (prompt_tokens * DEVICE.prompt_token_s + DEVICE.step_s - first_s) / (TPOT_S - DEVICE.prompt_token_s)
    for each in seen:
        assert each.ttft_s == pytest.approx(first_s, abs=1e-3)
        assert each.ttft_s <= 0.2 * alone.ttft_s
        assert each.longest_gap_s <= TPOT_S + 1e-6
    for each in seen[1:]:  # the first one does not know how soon the cloud answers
        assert each.cloud_tokens == pytest.approx(optimum, rel=0.15)


def test_a_round_is_called_after_the_tier_that_gave_its_token() -> None:
    async def run() -> Seen:
        async with world() as (strategy, _, _):
            return await one(strategy, prompt_tokens=512, new_tokens=64)

    seen = virtual_time.run(run())
    assert 1 < seen.cloud_tokens < 64
    assert_rounds_are_called_after_tiers(seen)


def assert_rounds_are_called_after_tiers(seen: Seen) -> None:
    kinds = [round_.kind for round_ in seen.summary.rounds if round_.emitted_tokens]
    from_cloud = max(0, seen.cloud_tokens - 1)  # the first token is of the round `prefill`
    assert kinds == ["prefill"] + from_cloud * ["cloud"] + (len(kinds) - 1 - from_cloud) * ["device"]


@pytest.mark.parametrize("lost_after_s", [0.0, 0.05, 0.3, 0.6, 3.0])
def test_a_cloud_that_is_lost_at_any_time_costs_no_token(lost_after_s: float) -> None:
    async def run() -> Seen:
        async with world() as (strategy, _, cloud):

            async def lose() -> None:
                await CLOCK.sleep(lost_after_s)
                cloud.lost = True

            losing = asyncio.ensure_future(lose())
            try:
                return await one(strategy, prompt_tokens=512, new_tokens=128)
            finally:
                losing.cancel()

    seen = virtual_time.run(run())
    assert len(seen.times_s) == 128
    assert_rounds_are_called_after_tiers(seen)
    assert seen.ttft_s <= 512 * DEVICE.prompt_token_s + 2 * DEVICE.step_s, "the device's own, at the latest"
