"""The phases of real strategies: every round is explained, and the rounds explain the request (in virtual time)."""

from __future__ import annotations

import contextlib

import pytest

from milliner.bench import plan, presets, variants
from milliner.bench.modelled import cloud, device, language, virtual_time
from milliner.core import types
from milliner.strategies import factory
from milliner.telemetry import record, summary
from milliner.telemetry.phases import Phase

Name = plan.StrategyName


class SlowHandOver(device.ModelledDevice):
    """Takes 5 ms longer than it reports: the way to the executor's thread and back on a busy machine."""

    async def busy(self, seconds: float) -> float:
        await self.clock.sleep(0.005)
        return await super().busy(seconds)


async def answer(
    variant: plan.Variant,
    *,
    prompt_tokens: int,
    new_tokens: int,
    device_class: type[device.ModelledDevice] = device.ModelledDevice,
) -> summary.RequestSummary:
    clock = virtual_time.VirtualClock()
    modelled = device_class(
        presets.PAPER_WIFI,
        clock=clock,
        speech=language.Language(agreement=0.8),
        drafts=variants.drafts_with_adapter(variant.strategy),
        num_medusa_heads=4 if variant.strategy is Name.UMEDUSA else 0,
    )
    generator = factory.build_generator(
        variants.strategy_options(variant),
        clock=clock,
        transport=cloud.ModelledCloud(presets.PAPER_WIFI, clock=clock),
        device=modelled,
    )
    request = types.GenerationRequest("r", tuple(range(prompt_tokens)), new_tokens)
    request_record = record.RequestRecord(
        clock=clock, request_id="r", operation="chat", model="m", strategy=variant.strategy
    )
    async with contextlib.aclosing(generator.generate(request, request_record)) as emissions:
        async for _ in emissions:
            pass
    return request_record.finish(finish_reason="length")


@pytest.mark.parametrize("prompt_tokens", [1, 128, 2048])
@pytest.mark.parametrize("strategy", list(Name))
def test_phases_explain_rounds_and_rounds_the_request(strategy: plan.StrategyName, prompt_tokens: int) -> None:
    variant = plan.Variant(strategy=strategy, codec="float16")
    one = virtual_time.run(answer(variant, prompt_tokens=prompt_tokens, new_tokens=48))
    assert one.generated_tokens == 48
    for round_ in one.rounds:
        assert round_.attributed_s == pytest.approx(round_.duration_s, rel=0.05), round_
    assert sum(round_.duration_s for round_ in one.rounds) == pytest.approx(one.duration_s, rel=0.05)
    assert {Phase.DEVICE_FORWARD, Phase.NETWORK, Phase.CLOUD_FORWARD} <= set(one.phases_s)
    if strategy is Name.HAT:
        assert one.hidden_phases_s[Phase.DRAFT] > 0


@pytest.mark.parametrize("strategy", list(Name))
def test_the_way_to_the_accelerator_is_explained_too(strategy: plan.StrategyName) -> None:
    variant = plan.Variant(strategy=strategy, codec="float16")
    one = virtual_time.run(answer(variant, prompt_tokens=128, new_tokens=48, device_class=SlowHandOver))
    for round_ in one.rounds:
        assert round_.attributed_s == pytest.approx(round_.duration_s, rel=0.05), round_
