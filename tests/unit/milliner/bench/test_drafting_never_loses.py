"""Hat beside UShape in virtual time at the edges: links from a cable to a satellite, drafters from hopeless to good."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from milliner.bench import cells, optimum, plan, presets, runner, variants
from milliner.bench.modelled import cloud, device, language, virtual_time
from milliner.core import types
from milliner.strategies import base, factory
from milliner.telemetry import record

Name = plan.StrategyName
NEW_TOKENS, REQUESTS, MOST = 128, 4, 1.03
PROMPTS = {32: [tuple(range(start, start + 32)) for start in range(REQUESTS)]}
NO_TOKEN = language.VOCABULARY  # no candidate of the drafter


class Drafter(language.Language):
    """Right with a probability; sure of itself always, or as often as it is right."""

    def __init__(self, *, right: float, boasts: bool) -> None:
        super().__init__(agreement=right or 0.5)
        self._hopeless, self._boasts = right == 0.0, boasts

    def opinion(self, text: int) -> language.Opinion:
        known = super().opinion(text)
        if self._hopeless:
            known = dataclasses.replace(known, target=NO_TOKEN + text % 7)
        if self._boasts:
            (first, _), *others = known.candidates
            known = dataclasses.replace(known, candidates=((first, 0.95), *others))
        return known


class ChangingText(language.Language):
    """Undraftable, then easy, then undraftable again: by the number of tokens before."""

    def __init__(self, *, easy: range) -> None:
        super().__init__(agreement=0.9)
        self._easy = easy
        self._lengths = {0: 0}

    def extend(self, text: int, token: int) -> int:
        longer = super().extend(text, token)
        self._lengths[longer] = self._lengths[text] + 1
        return longer

    def opinion(self, text: int) -> language.Opinion:
        known = super().opinion(text)
        return known if self._lengths[text] in self._easy else dataclasses.replace(known, target=NO_TOKEN + text % 7)


class World:
    """`runner.System` with one language, and a link of its own for each variant."""

    def __init__(self, preset: presets.Preset, speech: language.Language) -> None:
        self.clock = virtual_time.VirtualClock()
        self._preset, self._speech = preset, speech
        self._generators: dict[plan.Variant, base.Generator] = {}

    def generator(self, variant: plan.Variant) -> base.Generator:
        if variant not in self._generators:
            self._generators[variant] = factory.build_generator(
                variants.strategy_options(variant),
                clock=self.clock,
                transport=cloud.ModelledCloud(self._preset, clock=self.clock),
                device=device.ModelledDevice(
                    self._preset,
                    clock=self.clock,
                    speech=self._speech,
                    drafts=variants.drafts_with_adapter(variant.strategy),
                ),
            )
        return self._generators[variant]

    async def counters(self, variant: plan.Variant) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        return cells.ComputeCounters(), cells.ComputeCounters()


def time_over_ushape(speech: language.Language, *, link: presets.Link) -> float:
    """Hat's time in answers over UShape's, on the same prompts."""
    run_plan = plan.Plan(
        strategies=[Name.USHAPE, Name.HAT],
        codecs=["float16"],
        prompt_tokens=[32],
        temperatures=[0.0],
        requests=REQUESTS,
        new_tokens=NEW_TOKENS,
    )
    measuring = runner.measure(
        run_plan,
        system=World(dataclasses.replace(presets.PAPER_WIFI, link=link), speech),
        prompts=PROMPTS,
        references={},
        deadline_s=lambda _: 1e6,
        pause_s=0.05,
    )
    spent_s = dict.fromkeys(run_plan.strategies, 0.0)
    for observation in virtual_time.run(measuring):
        spent_s[observation.cell.variant.strategy] += sum(observation.summary.tbt_s)
    return spent_s[Name.HAT] / spent_s[Name.USHAPE]


def link(round_trip_s: float, *, loss_share: float = 0.0) -> presets.Link:
    return dataclasses.replace(
        presets.PAPER_WIFI.link, round_trip_s=round_trip_s, jitter_s=round_trip_s / 10, loss_share=loss_share
    )


@pytest.mark.parametrize("boasts", [False, True], ids=["honest", "boasting"])
@pytest.mark.parametrize("right", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("used", [link(0.2e-3), link(0.4)], ids=["0.2 ms", "400 ms"])
def test_hat_is_never_slower_than_ushape(used: presets.Link, right: float, boasts: bool) -> None:
    ratio = time_over_ushape(Drafter(right=right, boasts=boasts), link=used)
    assert ratio <= MOST
    if right:
        assert ratio <= 1.0 - right / 2  # and where drafts are right, it gains


@pytest.mark.parametrize("right", [0.0, 0.6])
def test_nor_where_packets_are_lost(right: float) -> None:
    assert time_over_ushape(Drafter(right=right, boasts=True), link=link(0.4, loss_share=0.02)) <= MOST


def emissions(speech: language.Language, strategy: Name, *, new_tokens: int) -> list[tuple[float, int]]:
    """When tokens came, and how many had come by then, in one answer on the preset's own link."""

    async def answer() -> list[tuple[float, int]]:
        world = World(presets.PAPER_WIFI.without_jitter(), speech)
        prompt = PROMPTS[32][0]
        request_record = record.RequestRecord(
            clock=world.clock,
            request_id="test",
            operation="text_completion",
            model="test",
            strategy=strategy,
            prompt_tokens=len(prompt),
        )
        request = types.GenerationRequest(request_id="test", prompt_ids=prompt, max_new_tokens=new_tokens)
        came, seen = 0, list[tuple[float, int]]()
        generator = world.generator(plan.Variant(strategy=strategy, codec="float16"))
        async with contextlib.aclosing(generator.generate(request, request_record)) as answer:
            async for emission in answer:
                came += len(emission.tokens)
                seen.append((world.clock.now(), came))
        return seen

    return virtual_time.run(answer())


@pytest.mark.parametrize(
    ("strategy", "most"),
    [(Name.HAT, 1.05), (Name.HAT_SEQUENTIAL, 1.1)],  # without waiting to draft in, nothing is learnt for nothing
)
def test_drafting_comes_back_when_the_text_turns_easy_and_leaves_when_it_turns_hard(
    strategy: Name, most: float
) -> None:
    third, prompt = 400, len(PROMPTS[32][0])
    speech = ChangingText(easy=range(prompt + third, prompt + 2 * third))
    seen = emissions(speech, strategy, new_tokens=3 * third)
    paces = []
    for part in range(3):
        inside = [(at_s, came) for at_s, came in seen if part * third < came <= (part + 1) * third]
        (first_s, first), (last_s, last) = inside[0], inside[-1]
        paces.append((last_s - first_s) / (last - first) / optimum.plain_step_s(presets.PAPER_WIFI))
    hard, easy, hard_again = paces
    assert max(hard, hard_again) <= most  # learning what the drafter is worth, once and once more
    assert easy <= 0.6  # learning included
