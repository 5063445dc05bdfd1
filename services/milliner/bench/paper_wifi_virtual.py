"""`milliner bench --virtual-time`: the same plan, prompts and model as `bench.paper_wifi`, every duration the preset's.

Device and cloud really compute, so tokens, acceptance and agreement are the model's; time is the model of
`bench.modelled`, so neither the machine nor its load shows. References are left out: agreement is the real bench's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import rich.console
import torch

from milliner.bench import cells, paper_wifi, paper_wifi_report, plan, presets, progress, report, runner
from milliner.bench.modelled import real_model, virtual_time
from milliner.bench.prompts import Prompt

_DEADLINE_S = 3600.0  # of virtual time


def run(
    run_plan: plan.Plan,
    *,
    preset_name: str,
    command: str,
    console: rich.console.Console,
    run_inputs: paper_wifi.Inputs | None = None,
) -> report.Report:
    """Measures the plan in virtual time. Raises `ConfigError`s for what cannot run."""
    found = run_inputs or paper_wifi.demo_inputs()
    preset = paper_wifi.preset_for(found, preset_name=preset_name, time_scale=1.0).without_jitter()
    prompts = paper_wifi.cut_prompts(run_plan, found)
    torch.set_num_threads(1)  # small products on one thread; another machine's load then changes nothing but patience
    with progress.bar(console) as bar:
        task = bar.add_task("measuring", total=len(list(run_plan.tasks())), note="in virtual time")

        def done(seen: cells.Observation) -> None:
            bar.update(task, advance=1, note=f"done: {seen.cell.label}")

        async def measure() -> list[cells.Observation]:
            return await _measure(run_plan, found=found, preset=preset, prompts=prompts, on_done=done)

        observations = virtual_time.run(measure())
    return paper_wifi_report.build(
        run_plan, observations, preset=preset, command=command, title=f"{preset_name}, virtual time"
    )


async def _measure(
    run_plan: plan.Plan,
    *,
    found: paper_wifi.Inputs,
    preset: presets.Preset,
    prompts: Mapping[int, Sequence[Prompt]],
    on_done: runner.OnDone,
) -> list[cells.Observation]:
    return await runner.measure(
        run_plan,
        system=real_model.RealModelSystem(found.files, preset=preset, strategies=tuple(run_plan.strategies)),
        prompts=prompts,
        references={},
        deadline_s=lambda _: _DEADLINE_S,
        pause_s=paper_wifi_report.PAUSE_S,
        on_done=on_done,
    )
