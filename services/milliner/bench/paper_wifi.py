"""`milliner bench --preset paper-wifi`: strategies side by side on one emulated link, with prompts of held-out text.

In this order: prompts are cut, the unsplit float32 model answers them greedily (`reference`), both tiers start
(`emulated_system`), all requests run interleaved (`runner`), and rows and ratios are made (`cells`, `summary`).
Before and after the measurement nothing of the bench computes beside it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import rich.console
import rich.progress
import tokenizers

from milliner.bench import (
    cells,
    device_tier,
    emulated_system,
    paper_wifi_report,
    plan,
    presets,
    progress,
    reference,
    report,
    runner,
)
from milliner.bench import prompts as prompt_cutter
from milliner.bench import time_scale as time_scales
from milliner.bench.prompts import Prompt
from milliner.model import checkpoint, drafter_file

DEADLINE_FACTOR, DEADLINE_EXTRA_S = 10.0, 60.0  # a request takes this many times what it should, and more: it hangs


@dataclasses.dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads: the model with its drafters, and held-out text for prompts."""

    files: device_tier.Files
    texts: Sequence[str]


def demo_inputs() -> Inputs:
    """The demo model that ships with the package, its default adapter and its Medusa heads."""
    from milliner.demo import assets

    return inputs(
        model=assets.model_dir(),
        adapter=assets.adapter_dir(),
        medusa=assets.medusa_dir(),
        texts=assets.heldout_texts(),
    )


def inputs(*, model: Path, adapter: Path, medusa: Path | None, texts: Sequence[Path]) -> Inputs:
    """Any checkpoint with an adapter, whose card says split and form. Raises `DrafterMismatch` for a card unread."""
    card = drafter_file.read_card(adapter)
    files = device_tier.Files(
        model=model, split_layer=card.split_layer, adapter=adapter, adapter_form=card.form, medusa=medusa
    )
    return Inputs(files=files, texts=[path.read_text(encoding="utf-8") for path in texts])


def run(
    run_plan: plan.Plan,
    *,
    preset_name: str,
    time_scale: float | None,
    command: str,
    console: rich.console.Console,
    run_inputs: Inputs | None = None,
) -> report.Report:
    """Measures the plan, slowed by `time_scale` (None: as this machine needs), and reports. Raises `ConfigError`s for
    what cannot run, `BenchRequestError` for what failed."""
    found = run_inputs or demo_inputs()
    preset = preset_for(found, preset_name=preset_name, time_scale=1.0 if time_scale is None else time_scale)
    prompts = cut_prompts(run_plan, found)
    with progress.bar(console) as bar:
        if time_scale is None:
            factor = asyncio.run(_needed_scale(run_plan, found, preset_name=preset_name, prompts=prompts, bar=bar))
            preset = preset_for(found, preset_name=preset_name, time_scale=factor)
        references = _references(run_plan, prompts, model=found.files.model, bar=bar)
        observations, link_lateness_s = asyncio.run(
            _measure(
                run_plan,
                files=found.files,
                preset=preset,
                prompts=prompts,
                references=references,
                on_done=_shown_by(bar, run_plan, preset),
            )
        )
    return paper_wifi_report.build(
        run_plan,
        observations,
        preset=preset,
        command=command,
        title=time_scales.title(preset_name, preset.time_scale, found=time_scale is None),
        more={"link_max_lateness_ms": 1e3 * link_lateness_s},
    )


def preset_for(found: Inputs, *, preset_name: str, time_scale: float) -> presets.Preset:
    """The preset for the width of the inputs' model. Raises `PresetError`."""
    width = checkpoint.Checkpoint.open(found.files.model).hidden_size
    return presets.preset(preset_name).for_model(hidden_size=width, time_scale=time_scale)


def cut_prompts(run_plan: plan.Plan, found: Inputs) -> dict[int, tuple[Prompt, ...]]:
    """The plan's prompts from the inputs' texts. Raises `plan.PlanError` where they are too short."""
    tokenizer = tokenizers.Tokenizer.from_file(str(found.files.model / "tokenizer.json"))
    return prompt_cutter.cut(
        found.texts,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lengths=run_plan.prompt_tokens,
        count=run_plan.requests,
    )


def _references(
    run_plan: plan.Plan,
    prompts: Mapping[int, Sequence[Prompt]],
    *,
    model: Path,
    bar: rich.progress.Progress,
) -> dict[Prompt, tuple[int, ...]]:
    """Greedy answers of the unsplit model, where the plan has greedy cells to hold against them."""
    if 0 not in run_plan.temperatures:
        return {}
    wanted = [prompt for windows in prompts.values() for prompt in windows]
    task = bar.add_task("reference answers", total=len(wanted), note="the unsplit model in float32")
    return reference.greedy_answers(model, wanted, new_tokens=run_plan.new_tokens, on_done=lambda: bar.advance(task))


async def _needed_scale(
    run_plan: plan.Plan,
    found: Inputs,
    *,
    preset_name: str,
    prompts: Mapping[int, Sequence[Prompt]],
    bar: rich.progress.Progress,
) -> float:
    """The time scale at which both tiers keep up with every strategy behind the longest prompt."""
    task = bar.add_task("time scale", total=len(time_scales.FACTORS), note="starting both tiers")
    tried = dataclasses.replace(
        run_plan,
        codecs=run_plan.codecs[:1],
        prompt_tokens=[max(run_plan.prompt_tokens)],
        temperatures=run_plan.temperatures[:1],
        requests=1,
        new_tokens=min(runner.WARM_UP_NEW_TOKENS, run_plan.new_tokens),
    )

    async def trial(factor: float) -> float:
        preset = preset_for(found, preset_name=preset_name, time_scale=factor)
        observations, _ = await _measure(
            tried, files=found.files, preset=preset, prompts=prompts, references={}, on_done=lambda _: None
        )
        tiers = ([o.device for o in observations], [o.cloud for o in observations])
        return max(cells.overrun_share(counters) for counters in tiers)

    factor = await time_scales.find(trial, on_try=lambda each: bar.update(task, advance=1, note=f"trying {each:g}"))
    bar.update(task, completed=len(time_scales.FACTORS), note=f"{factor:g}")
    return factor


async def _measure(
    run_plan: plan.Plan,
    *,
    files: device_tier.Files,
    preset: presets.Preset,
    prompts: Mapping[int, Sequence[Prompt]],
    references: Mapping[Prompt, tuple[int, ...]],
    on_done: runner.OnDone,
) -> tuple[list[cells.Observation], float]:
    """All observations, and by how much the emulated link was late at most, in seconds."""
    async with emulated_system.running(
        files,
        preset=preset,
        strategies=tuple(run_plan.strategies),
        torch_threads=max(1, (os.cpu_count() or 1) // 2),  # the tiers work at the same time
    ) as system:
        observations = await runner.measure(
            run_plan,
            system=system,
            prompts=prompts,
            references=references,
            deadline_s=lambda cell: (
                DEADLINE_EXTRA_S
                + DEADLINE_FACTOR * progress.expected_s(cell, preset=preset, new_tokens=run_plan.new_tokens)
            ),
            pause_s=paper_wifi_report.PAUSE_S * preset.time_scale,
            on_done=on_done,
        )
        return observations, (await system.link.counters()).max_lateness_s


def _shown_by(bar: rich.progress.Progress, run_plan: plan.Plan, preset: presets.Preset) -> runner.OnDone:
    """Moves a bar by what each request was expected to take."""

    def expected_s(cell: plan.Cell) -> float:
        return progress.expected_s(cell, preset=preset, new_tokens=run_plan.new_tokens)

    total_s = sum(expected_s(task.cell) for task in run_plan.tasks())
    measuring = bar.add_task("measuring", total=total_s, note="starting")
    return lambda seen: bar.update(measuring, advance=expected_s(seen.cell), note=f"done: {seen.cell.label}")
