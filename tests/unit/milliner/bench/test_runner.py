"""The runner against a toy generator in virtual time: what is timed, counted and compared."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from milliner.bench import cells, plan, runner
from milliner.core import errors, types
from milliner.strategies import base
from milliner.telemetry import record

Name = plan.StrategyName
PROMPTS = {4: ((1, 2, 3, 4), (5, 6, 7, 8)), 6: ((1,) * 6, (2,) * 6)}


class VirtualClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class ToyGenerator:
    """First token after 1 s, then pairs of tokens every 0.2 s; the tokens follow the prompt's last one."""

    def __init__(self, system: ToySystem, variant: plan.Variant) -> None:
        self._system = system
        self._variant = variant

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        self._system.requests.append((self._variant, request))
        produced, step, wait_s = 0, 1, 1.0
        limit = request.max_new_tokens - self._system.tokens_short
        while produced < limit:
            await self._system.clock.sleep(wait_s)
            self._system.cloud_calls += 1
            step = min(step, limit - produced)
            ids = [request.prompt_ids[-1] + produced + i + 1 for i in range(step)]
            produced += step
            request_record.emitted(step)
            tokens = tuple(types.EmittedToken(i, types.TokenOrigin.VERIFIED) for i in ids)
            yield types.Emission(tokens, types.FinishReason.LENGTH if produced == limit else None)
            if self._system.fails:
                raise errors.UnavailableError("the cloud went away", field="stream")
            step, wait_s = 2, 0.2


class ToySystem:
    def __init__(self, *, fails: bool = False, tokens_short: int = 0) -> None:
        self.clock = VirtualClock()
        self.requests: list[tuple[plan.Variant, types.GenerationRequest]] = []
        self.cloud_calls = 0
        self.fails = fails
        self.tokens_short = tokens_short

    def generator(self, variant: plan.Variant) -> base.Generator:
        return ToyGenerator(self, variant)

    async def counters(self, variant: plan.Variant) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        return cells.ComputeCounters(), cells.ComputeCounters(calls=self.cloud_calls, busy_s=self.cloud_calls * 0.1)


PLAN = plan.Plan(
    strategies=[Name.USHAPE, Name.HAT],
    codecs=["float16"],
    prompt_tokens=[4, 6],
    temperatures=[0.0, 0.8],
    requests=2,
    new_tokens=5,
)


async def _measure(system: ToySystem) -> list[cells.Observation]:
    references = {prompt: (prompt[-1] + 1, 0, 0, 0, 0) for windows in PROMPTS.values() for prompt in windows}
    return await runner.measure(
        PLAN, system=system, prompts=PROMPTS, references=references, deadline_s=lambda _: 5.0, pause_s=0.5
    )


async def test_each_request_is_timed_counted_and_compared() -> None:
    system = ToySystem()
    observations = await _measure(system)
    assert [o.cell for o in observations] == [task.cell for task in PLAN.tasks()]
    for observation in observations:
        assert observation.summary.ttft_s == pytest.approx(1.0)
        assert observation.summary.tbt_s == pytest.approx((0.2, 0.2))
        assert observation.cloud.calls == 3
        row = cells.row(observation.cell, [observation], ttft_optimum_s=1.0)
        assert row.tbt_p50_s == pytest.approx(0.1)
        assert row.token_agreement == (pytest.approx(1 / 2) if observation.cell.temperature == 0 else None)


async def test_variants_get_equal_prompts_and_seeds_after_a_warm_up_each() -> None:
    system = ToySystem()
    await _measure(system)
    warm_up, measured = system.requests[:2], system.requests[2:]
    assert [variant for variant, _ in warm_up] == list(PLAN.variants)
    asked = [
        {(r.prompt_ids, r.sampling) for variant, r in measured if variant.strategy is name} for name in PLAN.strategies
    ]
    assert asked[0] == asked[1]
    assert len(asked[0]) == len(measured) / 2


async def test_a_failed_request_ends_the_run_and_names_its_cell() -> None:
    with pytest.raises(runner.BenchRequestError, match="the cloud went away") as caught:
        await _measure(ToySystem(fails=True))
    assert caught.value.field == "UShape float16 4 T0"


async def test_an_answer_that_is_short_does_not_count() -> None:
    with pytest.raises(runner.BenchRequestError, match="4 tokens came"):
        await _measure(ToySystem(tokens_short=1))
