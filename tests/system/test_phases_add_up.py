"""The phases of real strategies: every round is explained, and the rounds explain the request (in virtual time)."""

from __future__ import annotations

import contextlib

import pytest

from milliner.bench import plan, presets, variants
from milliner.bench.modelled import cloud, device, language, virtual_time
from milliner.core import errors, ports, types
from milliner.strategies import factory
from milliner.telemetry import record, summary
from milliner.telemetry.phases import Phase

Name = plan.StrategyName


class SlowHandOver(device.ModelledDevice):
    """Takes 5 ms longer than it reports: the way to the executor's thread and back on a busy machine."""

    async def busy(self, seconds: float) -> float:
        await self.clock.sleep(0.005)
        return await super().busy(seconds)


class LosingStream:
    """A stream that is lost when the sixth reply is waited for."""

    def __init__(self, stream: ports.CloudStream, *, clock: ports.Clock) -> None:
        self._stream = stream
        self._clock = clock
        self._receives = 0
        self.opened = stream.opened
        self.send, self.close = stream.send, stream.close

    async def receive(self) -> types.HiddenReply:
        self._receives += 1
        if self._receives == 6:
            await self._clock.sleep(0.030)
            raise errors.UnavailableError("the replica went away")
        return await self._stream.receive()


class LosingCloud(cloud.ModelledCloud):
    """Loses its first stream."""

    lost = False

    async def open(  # type: ignore[override]
        self, request: types.SessionOpen, *, eager: bool = False
    ) -> ports.CloudStream:
        stream = await super().open(request, eager=eager)
        if self.lost:
            return stream
        self.lost = True
        return LosingStream(stream, clock=self._clock)


async def answer(
    variant: plan.Variant,
    *,
    prompt_tokens: int,
    new_tokens: int,
    device_class: type[device.ModelledDevice] = device.ModelledDevice,
    cloud_class: type[cloud.ModelledCloud] = cloud.ModelledCloud,
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
        transport=cloud_class(presets.PAPER_WIFI, clock=clock),
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


@pytest.mark.parametrize("strategy", [Name.USHAPE, Name.HAT])
def test_a_recovery_is_a_phase_and_not_network_as_well(strategy: plan.StrategyName) -> None:
    variant = plan.Variant(strategy=strategy, codec="float16")
    one = virtual_time.run(answer(variant, prompt_tokens=128, new_tokens=48, cloud_class=LosingCloud))
    assert one.counters["recoveries"] == 1
    (recovered,) = [round_ for round_ in one.rounds if any(span.phase is Phase.TAKEOVER for span in round_.phases)]
    assert recovered.attributed_s == pytest.approx(recovered.duration_s, rel=0.05)
