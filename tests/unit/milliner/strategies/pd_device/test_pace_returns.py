"""A tier that was too slow or away for a while has its part of the answers again once it is not."""

from __future__ import annotations

import itertools

import pytest
from tests.unit.milliner.bench import test_pd_modelled, test_pd_settings_modelled

from milliner.bench.modelled import virtual_time, whole
from milliner.core import compute

SLOW = compute.GenerationCost(prompt_token_s=2e-3, step_s=90e-3)


def test_a_device_that_was_slow_when_it_started_does_not_leave_every_answer_to_the_cloud_for_ever() -> None:
    async def run() -> list[test_pd_modelled.Seen]:
        async with test_pd_settings_modelled.world(test_pd_settings_modelled.Watched(), SLOW) as strategy:
            slow = [await test_pd_modelled.one(strategy, prompt_tokens=256, new_tokens=100) for _ in range(20)]
            model = strategy._device.model
            assert isinstance(model, whole.ModelledDeviceModel)
            model._cost = test_pd_modelled.DEVICE
            for _ in range(20):
                quick = await test_pd_modelled.one(strategy, prompt_tokens=256, new_tokens=100)
            return [*slow, quick]

    *slow, quick = virtual_time.run(run())
    for each in slow:
        assert each.cloud_tokens == 100, "looking how slow it is costs nobody a token"
        assert each.longest_gap_s <= test_pd_modelled.TPOT_S + 1e-6
    assert quick.cloud_tokens < 50
    assert quick.longest_gap_s <= test_pd_modelled.TPOT_S + 1e-6


def test_following_the_cloud_token_by_token_says_nothing_of_how_long_a_prompt_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every call has its fixed part: seen one by one, a token takes forty times as long as in a prompt."""

    async def busy(model: whole.ModelledDeviceModel, num_tokens: int, *, num_steps: int) -> float:
        seconds = max(SLOW.step_s, 40e-3 + num_tokens * SLOW.prompt_token_s)
        async with model._accelerator:
            await model._clock.sleep(seconds)
        return seconds

    monkeypatch.setattr(whole.ModelledDeviceModel, "busy", busy)

    async def run() -> float:
        async with test_pd_settings_modelled.world(test_pd_settings_modelled.Watched(), SLOW) as strategy:
            for _ in range(10):
                await test_pd_modelled.one(strategy, prompt_tokens=256, new_tokens=200)
            return strategy._profile.prefill_s

    assert virtual_time.run(run()) == pytest.approx((2 * 40e-3 + 256 * 2e-3) / 256, rel=0.3)


def test_a_cloud_that_is_back_is_asked_by_the_next_request() -> None:
    async def run() -> tuple[list[int], int]:
        cloud = test_pd_settings_modelled.Watched(compute.ComputeCost(fixed_s=1000.0))
        async with test_pd_settings_modelled.world(cloud) as strategy:
            asked = []
            for _ in range(5):  # the fourth asked once more
                await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20)
                asked.append(len(cloud.asked))
            cloud._cost = test_pd_modelled.CLOUD
            await test_pd_modelled.CLOCK.sleep(1e4)  # until the last slow batch has ended
            strategy.cloud_is_back()
            return asked, (await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20)).cloud_tokens

    asked, given = virtual_time.run(run())
    assert asked[-1] == asked[-2], "it is left alone for some requests"
    assert given > 0


def test_one_stall_leaves_the_cloud_alone_for_one_request_and_longer_ones_for_longer() -> None:
    async def run() -> tuple[list[int], list[int]]:
        cloud = test_pd_settings_modelled.Watched()
        async with test_pd_settings_modelled.world(cloud) as strategy:
            for _ in range(4):
                await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20)
            strategy._profile.cloud_was_overtaken(512, 5.0)
            once = [await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20) for _ in range(3)]
            cloud._cost = compute.ComputeCost(fixed_s=1000.0)
            before = len(cloud.asked)
            asked = []
            for _ in range(20):
                await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20)
                asked.append(len(cloud.asked) - before)
            return [each.cloud_tokens for each in once], asked

    once, asked = virtual_time.run(run())
    assert min(once) > 0, "the first request after the stall finds that it is over"
    assert 2 <= asked[-1] <= 6, "of twenty"
    gaps = [
        later - earlier for earlier, later in itertools.pairwise([i for i in range(1, 20) if asked[i] > asked[i - 1]])
    ]
    assert gaps == sorted(gaps), "each time that was in vain makes the next wait longer"
