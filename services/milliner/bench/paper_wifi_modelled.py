"""`milliner bench --modelled`: the strategies' bench in virtual time, to see what the preset lets them reach.

The strategies are the real ones; device, link, cloud and language are models (`bench.modelled`), so no torch and no
process is needed and minutes take seconds. What the real bench shows beyond these figures is the price of gRPC, Python
and a real drafter; prompts are made up, answers greedy.
"""

from __future__ import annotations

import random

from milliner.bench import cells, paper_wifi_report, plan, presets, report, runner
from milliner.bench.modelled import language, system, virtual_time
from milliner.bench.prompts import Prompt

_DEADLINE_S = 3600.0  # of virtual time


def run(run_plan: plan.Plan, *, preset_name: str, agreement: float, command: str) -> report.Report:
    """Measures the plan's greedy cells in virtual time. Raises `PlanError` for what a model cannot show."""
    if set(run_plan.temperatures) != {0.0}:
        raise plan.PlanError("only greedy answers are modelled: use --temperatures 0", field="--temperatures")
    if not 0.0 < agreement < 1.0:
        raise plan.PlanError(f"is {agreement:g}: a share between 0 and 1 is needed", field="--agreement")
    preset = presets.preset(preset_name).without_jitter()
    observations = virtual_time.run(_measure(run_plan, preset=preset, agreement=agreement))
    return paper_wifi_report.build(
        run_plan,
        observations,
        preset=preset,
        command=command,
        title=f"{preset_name}, modelled, agreement {agreement:g}",
    )


async def _measure(run_plan: plan.Plan, *, preset: presets.Preset, agreement: float) -> list[cells.Observation]:
    generator = random.Random(0)

    def prompt(length: int) -> Prompt:
        return tuple(generator.randrange(language.VOCABULARY) for _ in range(length))

    return await runner.measure(
        run_plan,
        system=system.ModelledSystem(preset, agreement=agreement),
        prompts={length: [prompt(length) for _ in range(run_plan.requests)] for length in run_plan.prompt_tokens},
        references={},
        deadline_s=lambda _: _DEADLINE_S,
        pause_s=paper_wifi_report.PAUSE_S,
    )
