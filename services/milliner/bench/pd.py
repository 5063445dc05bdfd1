"""`milliner bench --preset pd`: P/D-Device beside DeviceOnly for one user, and what a saturated cloud serves beside
CloudOnly. Real processes, link and compute emulated (`pd_preset`).

One user: DeviceOnly and P/D-Device, with whole prompts and with refined ones, answer prompts of their own, turn by
turn; shown tokens are timed at the strategy's end. Capacity: `pd_capacity`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.progress
import tokenizers

from milliner.bench import pd_capacity, pd_preset, pd_report, pd_system, progress, report
from milliner.bench import prompts as prompt_cutter
from milliner.bench import time_scale as time_scales
from milliner.contract import kinds
from milliner.core import clock, errors, types
from milliner.strategies import base
from milliner.telemetry import record

CELLS = tuple(itertools.product((512, 2048), (256, 1024)))
QUICK_CELLS = ((512, 64),)
_SHORT = 2  # tokens of DeviceOnly's answers: only its first one is asked for
_TRIED_TOKENS = 32  # of each answer while the time scale is looked for; arbitrary: some dozens of calls


def run(
    *,
    model: Path,
    texts: Sequence[str],
    requests: int,
    quick: bool,
    time_scale: float | None,
    command: str,
    console: rich.console.Console,
) -> report.Report:
    """Measures all cells, slowed by `time_scale`; None: as this machine needs. Raises `ConfigError`s for what cannot
    run."""
    if time_scale is not None and time_scale <= 0:
        raise errors.ConfigError(f"is {time_scale:g}: a factor above 0 is needed", field="--time-scale")
    wanted = QUICK_CELLS if quick else CELLS
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    cut = prompt_cutter.cut(
        texts,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lengths=sorted({prompt for prompt, _ in wanted}),
        count=requests,
    )
    with progress.bar(console) as bar:
        factor = time_scale or asyncio.run(_needed_scale(wanted, model=model, prompts=cut, bar=bar))
        preset = pd_preset.PDPreset().scaled(factor)
        rows = asyncio.run(_measure(wanted, model=model, preset=preset, prompts=cut, bar=bar))
    title = time_scales.title("pd", factor, found=time_scale is None)
    return pd_report.build(rows, time_scale=factor, title=title, command=command)


async def _needed_scale(
    wanted: Sequence[tuple[int, int]],
    *,
    model: Path,
    prompts: dict[int, tuple[prompt_cutter.Prompt, ...]],
    bar: rich.progress.Progress,
) -> float:
    """The time scale at which both tiers keep up behind the longest prompt, with a full cloud."""
    task = bar.add_task("time scale", total=len(time_scales.FACTORS), note="starting both tiers")
    prompt = prompts[max(prompts)][0]

    async def trial(factor: float) -> float:
        preset = pd_preset.PDPreset().scaled(factor)
        async with pd_system.running(model, preset) as system:
            before = await system.counters()
            await asyncio.gather(
                _one(system.device_only, prompt, _TRIED_TOKENS),
                pd_capacity.serve(
                    system, preset, prompt, cloud_tokens=_TRIED_TOKENS, kept=1.0, answers=preset.sequences
                ),
            )
            return max(pd_report.overrun_shares(before, await system.counters()))

    found = await time_scales.find(trial, on_try=lambda factor: bar.update(task, advance=1, note=f"trying {factor:g}"))
    bar.update(task, completed=len(time_scales.FACTORS), note=f"{found:g}")
    return found


async def _measure(
    wanted: Sequence[tuple[int, int]],
    *,
    model: Path,
    preset: pd_preset.PDPreset,
    prompts: dict[int, tuple[prompt_cutter.Prompt, ...]],
    bar: rich.progress.Progress,
) -> list[report.Row]:
    rows: list[report.Row] = []
    task = bar.add_task("measuring", total=4 * len(wanted), note="starting both tiers")
    async with pd_system.running(model, preset) as system:
        for prompt_tokens, answer_tokens in wanted:
            before = await system.counters()
            label = f"{prompt_tokens}/{answer_tokens}"
            alone, handed, refined = list[pd_report.Seen](), list[pd_report.Seen](), list[pd_report.Seen]()
            for prompt in prompts[prompt_tokens]:
                alone.append(await _one(system.device_only, prompt, _SHORT))
                handed.append(await _one(system.whole_prompts, prompt, answer_tokens))
                refined.append(await _one(system.refined_prompts, prompt, answer_tokens))
            bar.update(task, advance=1, note=f"{label}: one user")
            first = prompts[prompt_tokens][0]
            cloud_only = await pd_capacity.requests_per_s(system, preset, first, cloud_tokens=answer_tokens, kept=1.0)
            bar.update(task, advance=1, note=f"{label}: CloudOnly")
            cell = pd_report.Cell(preset, prompt_tokens, answer_tokens, alone, cloud_only)
            pair: list[report.Row] = []
            for mode, seen in ((kinds.RefinementMode.OFF, handed), (kinds.RefinementMode.AUTO, refined)):
                given, kept = pd_report.median_given(seen), statistics.median(each.kept for each in seen)
                rate = await pd_capacity.requests_per_s(system, preset, first, cloud_tokens=given, kept=kept)
                bar.update(task, advance=1, note=f"{label}: {given} cloud tokens each")
                pair.append(cell.row(mode, seen, rate))
            overruns = pd_report.overruns(before, await system.counters())
            rows += [{**row, **overruns, "dtype": system.dtype.value} for row in pair]
    return rows


async def _one(strategy: base.Generator, prompt: prompt_cutter.Prompt, new_tokens: int) -> pd_report.Seen:
    """One answer; its salt is its own, so that no prompt is computed before."""
    salt = secrets.token_hex(8)
    told = record.RequestRecord(
        clock=clock.LoopClock(), request_id=salt, operation="text_completion", model="bench", strategy=""
    )
    request = types.GenerationRequest(request_id=salt, prompt_ids=prompt, max_new_tokens=new_tokens, cache_salt=salt)
    start_s, times_s, origins = time.perf_counter(), list[float](), list[types.TokenOrigin]()
    async with contextlib.aclosing(strategy.generate(request, told)) as emissions:
        async for emission in emissions:
            times_s.append(time.perf_counter() - start_s)
            origins += [token.origin for token in emission.tokens]
    left_out = told.finish(finish_reason="length").counters.get("prompt_tokens_left_out", 0)
    if len(origins) != new_tokens:
        raise errors.UnavailableError(f"{len(origins)} tokens came, {new_tokens} asked for", field="bench")
    return pd_report.Seen(tuple(times_s), origins.count(types.TokenOrigin.CLOUD), 1.0 - left_out / len(prompt))
