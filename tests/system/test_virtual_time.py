"""A real model in virtual time: tokens are the model's, durations the preset's, on any machine."""

from __future__ import annotations

import pathlib

import pytest
from tests.system import split_topology

from milliner.bench import cells, device_tier, optimum, plan, presets, runner
from milliner.bench.modelled import real_model, virtual_time

Name = plan.StrategyName
WIDTH, NEW_TOKENS = 32, 24
PROMPTS = (tuple(range(1, 41)), tuple(range(40, 0, -1)))


def preset() -> presets.Preset:
    return presets.PAPER_WIFI.for_model(hidden_size=WIDTH).without_jitter()


def measure(folder: pathlib.Path, *strategies: Name, temperature: float, deep_share: float) -> list[cells.Observation]:
    model, adapter = split_topology.write_agreeing_pair(folder, split_layer=2, deep_share=deep_share)
    files = device_tier.Files(model=model, split_layer=2, adapter=adapter, adapter_form="Attention", medusa=None)
    run_plan = plan.Plan(
        strategies=strategies,
        codecs=["float32"],
        prompt_tokens=[len(PROMPTS[0])],
        temperatures=[temperature],
        requests=len(PROMPTS),
        new_tokens=NEW_TOKENS,
    )

    async def run() -> list[cells.Observation]:
        return await runner.measure(
            run_plan,
            system=real_model.RealModelSystem(files, preset=preset(), strategies=strategies),
            prompts={len(PROMPTS[0]): PROMPTS},
            references={},
            deadline_s=lambda _: 600.0,
            pause_s=0.05,
        )

    return virtual_time.run(run())


def test_tokens_are_the_models_and_durations_the_presets(tmp_path: pathlib.Path) -> None:
    seen = measure(tmp_path, Name.USHAPE, Name.HAT, temperature=0.0, deep_share=0.3)
    expected = {
        prompt: tuple(split_topology.reference(tmp_path / "model", prompt, NEW_TOKENS)) for prompt in set(PROMPTS)
    }
    assert {o.token_ids for o in seen if o.cell.variant.strategy is Name.HAT} == set(expected.values())
    for observation in seen:
        if observation.cell.variant.strategy is Name.USHAPE:
            # 0.1 ms: packing is what it really took
            assert cells.mean_gap_s(observation) == pytest.approx(optimum.plain_step_s(preset()), abs=1e-4)
        else:
            assert cells.mean_gap_s(observation) < 0.8 * optimum.plain_step_s(preset())
            assert observation.summary.counters["num_accepted"] > 0


def test_sampled_answers_do_not_depend_on_drafting(tmp_path: pathlib.Path) -> None:
    seen = measure(tmp_path, Name.USHAPE, Name.HAT, temperature=0.8, deep_share=0.3)
    answers = {
        strategy: [o.token_ids for o in seen if o.cell.variant.strategy is strategy]
        for strategy in (Name.USHAPE, Name.HAT)
    }
    assert answers[Name.HAT] == answers[Name.USHAPE]
    assert len(set(answers[Name.HAT])) == len(PROMPTS)
    hat = [o.summary.counters for o in seen if o.cell.variant.strategy is Name.HAT]
    assert 0 < sum(c["num_accepted"] for c in hat) < sum(c["num_drafted"] for c in hat)
