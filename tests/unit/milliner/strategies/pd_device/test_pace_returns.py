"""A tier that was too slow or away for a while has its part of the answers again once it is not."""

from __future__ import annotations

import pytest
from tests.unit.milliner.bench import test_pd_modelled, test_pd_settings_modelled

from milliner.bench.modelled import virtual_time, whole

SLOW = whole.DeviceCosts(prefill_s=2e-3, step_s=90e-3)


def test_a_device_that_was_slow_when_it_started_does_not_leave_every_answer_to_the_cloud_for_ever() -> None:
    async def run() -> list[test_pd_modelled.Seen]:
        async with test_pd_settings_modelled.world(test_pd_settings_modelled.Watched(), SLOW) as strategy:
            slow = [await test_pd_modelled.one(strategy, prompt_tokens=256, new_tokens=100) for _ in range(20)]
            model = strategy._device.model
            assert isinstance(model, whole.ModelledDeviceModel)
            model._costs = test_pd_modelled.DEVICE
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
    """Every call has its fixed part: seen one by one, a token takes twenty times as long as in a prompt."""

    async def busy(model: whole.ModelledDeviceModel, *, known: int, steps: int) -> float:
        seconds = (known > 0) * 40e-3 + known * model._costs.prefill_s + steps * model._costs.step_s
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
    async def run() -> list[int]:
        async with test_pd_settings_modelled.world(test_pd_settings_modelled.Watched()) as strategy:
            for _ in range(3):
                strategy._profile.cloud_was_overtaken(512, 1000.0)
            alone = await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20)
            strategy.cloud_is_back()
            asked = await test_pd_modelled.one(strategy, prompt_tokens=512, new_tokens=20)
            return [alone.cloud_tokens, asked.cloud_tokens]

    alone, asked = virtual_time.run(run())
    assert alone == 0
    assert asked > 0
