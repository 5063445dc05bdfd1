"""What P/D-Device asks of the cloud, in virtual time with the constants of preset pd: refined prompts, limits that
move, and the two ends of the scale."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.unit.milliner.bench import test_pd_modelled

from milliner.bench.modelled import virtual_time, whole
from milliner.core import compute, errors, generation
from milliner.strategies import cloud_tokens, options, whole_request
from milliner.strategies.pd_device import strategy as pd_device

CLOCK, DEVICE, TPOT_S = test_pd_modelled.CLOCK, test_pd_modelled.DEVICE, test_pd_modelled.TPOT_S
one = test_pd_modelled.one


class Watched(whole.ModelledTokenCloud):
    """A cloud that tells what it was asked for."""

    def __init__(self, cost: compute.ComputeCost = test_pd_modelled.CLOUD) -> None:
        super().__init__(cost, clock=CLOCK, places=8, uplink_bytes_per_s=10e6, round_trip_s=0.02)
        self.asked: list[generation.GenerationOpen] = []
        self.refines = True
        self.full = False
        self.given: list[int] = []

    async def open(self, request: generation.GenerationOpen) -> whole.ModelledTokenStream:
        self.asked.append(request)
        if self.full:
            raise errors.CapacityError("30 of 30 s are promised to others", retry_after_s=7.0)
        return await super().open(request if self.refines else dataclasses.replace(request, keep_share=1.0))


@contextlib.asynccontextmanager
async def world(
    cloud: Watched, device: compute.GenerationCost = DEVICE, *, measured: bool = True, **wanted: float | bool
) -> AsyncIterator[pd_device.PDDevice]:
    serving = asyncio.ensure_future(cloud.serve())
    ids = itertools.count()
    scope = cloud_tokens.CloudPorts(
        clock=CLOCK, transport=cloud, info=whole.INFO, new_session_id=lambda: str(next(ids))
    )
    model = whole.ModelledDeviceModel(device, clock=CLOCK)
    strategy = pd_device.PDDevice(
        scope,
        whole_request.DevicePorts(clock=CLOCK, model=model),
        options.PDDeviceOptions(max_interval_s=TPOT_S, **wanted),  # type: ignore[arg-type]
    )
    if measured:
        await strategy.measure()
    try:
        yield strategy
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("prompt_tokens", [512, *range(1000, 2000, 130), 2048])
def test_a_refined_prompt_takes_fewer_tokens_of_the_cloud_and_leaves_no_gap(prompt_tokens: int) -> None:
    async def run(least_kept: float) -> tuple[list[test_pd_modelled.Seen], Watched]:
        cloud = Watched()
        async with world(cloud, least_kept=least_kept) as strategy:
            return [await one(strategy, prompt_tokens=prompt_tokens, new_tokens=256) for _ in range(4)], cloud

    whole_prompt, _ = virtual_time.run(run(1.0))
    refined, cloud = virtual_time.run(run(0.3))
    assert 0.3 <= cloud.asked[-1].keep_share <= 0.5
    assert refined[-1].cloud_tokens <= 0.6 * whole_prompt[-1].cloud_tokens
    for seen in (*whole_prompt, *refined[1:]):
        assert seen.longest_gap_s <= TPOT_S + 1e-6
        assert seen.ttft_s == pytest.approx(whole_prompt[-1].ttft_s, abs=1e-3)


def test_a_cloud_that_does_not_refine_is_asked_once_and_bridges_whole_prompts() -> None:
    async def run() -> tuple[list[test_pd_modelled.Seen], list[float]]:
        cloud = Watched()
        cloud.refines = False
        async with world(cloud, least_kept=0.3) as strategy:
            seen = [await one(strategy, prompt_tokens=512, new_tokens=64) for _ in range(4)]
            return seen, [each.keep_share for each in cloud.asked]

    seen, shares = virtual_time.run(run())
    assert shares[0] == shares[2] == shares[3] == 1.0
    assert shares[1] < 1.0, "the first one did not know yet what a token costs the cloud"
    assert [each.cloud_tokens for each in seen[2:]] == [seen[0].cloud_tokens] * 2
    assert max(each.longest_gap_s for each in seen) <= TPOT_S + 1e-6, "the limit moved up in time"


def test_who_waits_for_what_is_kept_begins_with_all_of_it_when_the_cloud_is_late() -> None:
    async def run() -> list[test_pd_modelled.Seen]:
        cheap = compute.ComputeCost(fixed_s=2e-3, per_token_s=210e-6)  # a token costs little: waiting wins
        cloud = Watched(cheap)
        async with world(cloud, least_kept=0.3) as strategy:
            before = [await one(strategy, prompt_tokens=8192, new_tokens=64) for _ in range(3)]
            cloud.lost = True
            lost = await one(strategy, prompt_tokens=8192, new_tokens=64)
            cloud.lost = False
            cloud._cost = compute.ComputeCost(fixed_s=60.0, per_token_s=0.0)  # hangs
            return [before[-1], lost, await one(strategy, prompt_tokens=8192, new_tokens=64)]

    usual, lost, late = virtual_time.run(run())
    assert usual.cloud_tokens > 0
    alone_s = 8192 * DEVICE.prompt_token_s + DEVICE.step_s
    assert lost.ttft_s == pytest.approx(alone_s, rel=0.02)
    assert late.ttft_s <= alone_s + 2.0 * usual.ttft_s + 0.1, "no longer than twice what the cloud usually takes"
    assert lost.cloud_tokens == late.cloud_tokens == 0


def test_a_device_that_cannot_keep_the_pace_leaves_all_it_may_to_the_cloud() -> None:
    async def run(most: int) -> test_pd_modelled.Seen:
        slow = compute.GenerationCost(prompt_token_s=2e-3, step_s=90e-3)
        async with world(Watched(), slow, max_cloud_tokens=most) as strategy:
            return await one(strategy, prompt_tokens=256, new_tokens=100)

    everything = virtual_time.run(run(512))
    assert everything.cloud_tokens == 100
    assert everything.longest_gap_s <= TPOT_S + 1e-6
    assert everything.ttft_s < 256 * DEVICE.prompt_token_s
    capped = virtual_time.run(run(40))
    assert capped.cloud_tokens == 40, "then the answer goes on at the device's own pace"


def test_a_slow_device_waits_for_a_cloud_that_keeps_the_pace_even_where_its_own_first_token_were_sooner() -> None:
    async def run() -> list[test_pd_modelled.Seen]:
        slow = compute.GenerationCost(prompt_token_s=2e-3, step_s=90e-3)
        async with world(Watched(compute.ComputeCost(fixed_s=30e-3, per_token_s=4e-3)), slow) as strategy:
            return [await one(strategy, prompt_tokens=100, new_tokens=60) for _ in range(6)]

    *_, seen = virtual_time.run(run())
    assert seen.cloud_tokens == 60
    assert seen.longest_gap_s <= TPOT_S + 1e-6
    assert seen.ttft_s > 100 * 2e-3 + 90e-3


def test_a_first_token_that_is_about_to_come_is_not_overtaken_by_a_later_one_of_the_devices_own() -> None:
    async def run() -> tuple[list[test_pd_modelled.Seen], float]:
        cost = compute.ComputeCost(fixed_s=0.1, per_token_s=210e-6)  # between the device's prefill and its first token
        async with world(Watched(cost)) as strategy:
            seen = [await one(strategy, prompt_tokens=64, new_tokens=8) for _ in range(6)]
            return seen, 0.02 + cost.duration_s(64) + 4 * 64 / 10e6

    seen, first_s = virtual_time.run(run())
    assert 64 * DEVICE.prompt_token_s < first_s < 64 * DEVICE.prompt_token_s + DEVICE.step_s
    for each in seen[3:]:
        assert each.cloud_tokens >= 1
        assert each.ttft_s == pytest.approx(first_s, abs=1e-3)


def test_a_device_that_would_be_sooner_does_not_ask_the_cloud_and_looks_again_now_and_then() -> None:
    async def run() -> tuple[list[int], list[test_pd_modelled.Seen]]:
        slow = compute.ComputeCost(fixed_s=1.0, per_token_s=210e-6)
        cloud = Watched(slow)
        async with world(cloud) as strategy:
            asked, seen = [], []
            for _ in range(20):
                seen.append(await one(strategy, prompt_tokens=64, new_tokens=8))
                asked.append(len(cloud.asked))
            cloud._cost = compute.ComputeCost(fixed_s=1e-3, per_token_s=1e-5)
            for _ in range(20):
                seen.append(await one(strategy, prompt_tokens=64, new_tokens=8))
            return asked, seen

    asked, seen = virtual_time.run(run())
    assert 1 <= asked[-1] <= 5, "of twenty"
    assert all(each.ttft_s <= 64 * DEVICE.prompt_token_s + 2 * DEVICE.step_s for each in seen)
    assert seen[-1].cloud_tokens > 0, "the cloud has become quicker, and that was noticed"


@pytest.mark.parametrize(("slower", "more"), [(2.0, True), (0.5, False)], ids=["later", "sooner"])
def test_the_cloud_follows_a_device_that_is_slower_or_quicker_than_thought(slower: float, more: bool) -> None:
    async def run() -> tuple[test_pd_modelled.Seen, int]:
        cloud = Watched(compute.ComputeCost(fixed_s=45e-3, per_token_s=210e-6))  # generates while the device reads
        async with world(cloud) as strategy:
            model = strategy._device.model
            assert isinstance(model, whole.ModelledDeviceModel)
            model._cost = compute.GenerationCost(prompt_token_s=slower * DEVICE.prompt_token_s, step_s=DEVICE.step_s)
            seen = await one(strategy, prompt_tokens=1024, new_tokens=256)
            return seen, cloud.asked[0].max_tokens

    seen, asked = virtual_time.run(run())
    assert seen.longest_gap_s <= 1.4 * TPOT_S, "a cloud this slow has nothing in the buffer at the hand-over"
    assert seen.cloud_tokens > 1.5 * asked if more else seen.cloud_tokens < 0.6 * asked


@pytest.mark.parametrize("fails_without_cloud", [False, True])
def test_a_device_that_a_full_cloud_refuses_goes_on_alone_and_asks_the_next_time(fails_without_cloud: bool) -> None:
    async def run() -> tuple[list[test_pd_modelled.Seen], int]:
        cloud = Watched()
        async with world(cloud, fails_without_cloud=fails_without_cloud) as strategy:
            cloud.full = True
            refused = await one(strategy, prompt_tokens=256, new_tokens=16)
            cloud.full = False
            return [refused, await one(strategy, prompt_tokens=256, new_tokens=16)], len(cloud.asked)

    (refused, admitted), asked = virtual_time.run(run())
    assert refused.cloud_tokens == 0
    assert refused.ttft_s == pytest.approx(256 * DEVICE.prompt_token_s, rel=0.02)  # its pass gives the token
    assert admitted.cloud_tokens > 0
    assert asked == 2


def test_fixed_means_so_many() -> None:
    async def run() -> list[int]:
        async with world(Watched(), max_cloud_tokens=30, fixed_cloud_tokens=True) as strategy:
            return [(await one(strategy, prompt_tokens=tokens, new_tokens=60)).cloud_tokens for tokens in (8, 512)]

    assert virtual_time.run(run()) == [30, 30]


def test_a_device_that_does_not_ask_the_cloud_sees_a_prompt_in_the_pass_that_gives_its_first_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunks: list[int] = []
    prefill = whole.ModelledDeviceSession.prefill

    async def watched(session: whole.ModelledDeviceSession, token_ids: Sequence[int]) -> int:
        chunks.append(len(token_ids))
        return await prefill(session, token_ids)

    async def run() -> None:
        async with world(Watched(compute.ComputeCost(fixed_s=1.0, per_token_s=210e-6))) as strategy:
            for _ in range(2):  # learns what to expect of the cloud, and that it was no stall
                await one(strategy, prompt_tokens=16, new_tokens=8)
            monkeypatch.setattr(whole.ModelledDeviceSession, "prefill", watched)
            await one(strategy, prompt_tokens=16, new_tokens=8)

    virtual_time.run(run())
    assert chunks == []


class Remembering(Watched):
    """A cloud that has computed the first `cached` tokens of prompts before."""

    cached = 0

    async def open(self, request: generation.GenerationOpen) -> whole.ModelledTokenStream:
        left = dataclasses.replace(request, prompt_ids=request.prompt_ids[self.cached :])
        stream = await super().open(left)
        stream._sequence.position += self.cached
        stream.opened = dataclasses.replace(stream.opened, cached_tokens=self.cached)
        return stream


def test_what_a_prompt_takes_the_cloud_is_learnt_by_what_it_computes_of_it() -> None:
    async def run() -> tuple[list[float], list[float]]:
        cloud = Remembering()
        async with world(cloud) as strategy:
            seen = []
            for request in range(16):
                cloud.cached = 1900 if request % 2 else 0
                seen.append((await one(strategy, prompt_tokens=2048, new_tokens=8)).ttft_s)
            profile = strategy._profile
            return seen[-2:], [profile.cloud(2048).first_token_s, profile.cloud(148).first_token_s]

    seen, expected = virtual_time.run(run())
    assert seen[0] > 3 * seen[1]
    assert expected == pytest.approx(seen, rel=0.1)
