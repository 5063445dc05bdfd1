"""`milliner bench --preset pd`: P/D-Device beside DeviceOnly for one user, and what a saturated cloud serves beside
CloudOnly. Real processes, link and compute emulated (`pd_preset`).

One user: DeviceOnly and P/D-Device, with whole prompts and with refined ones, answer prompts of their own, turn by
turn; shown tokens are timed at the strategy's end. Capacity: clients that play only the cloud's part of many devices
(prompt in, N tokens out, then gone) keep three times as many requests in flight as the cloud goes on with; completions
after the first `sequences` of them are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.progress
import tokenizers

from milliner.bench import cells, pd_preset, pd_system, progress, report
from milliner.bench import prompts as prompt_cutter
from milliner.bench import time_scale as time_scales
from milliner.contract import kinds
from milliner.core import clock, errors, generation, types
from milliner.strategies import base
from milliner.telemetry import record

CELLS = tuple(itertools.product((512, 2048), (256, 1024)))
QUICK_CELLS = ((512, 64),)
_OVERLOAD = 3  # requests in flight for each place in the cloud; arbitrary: somebody always waits
_ROUNDS = 2  # completions per place that are counted; arbitrary
_SHORT = 2  # tokens of DeviceOnly's answers: only its first one is asked for
_TRIED_TOKENS = 32  # of each answer while the time scale is looked for; arbitrary: some dozens of calls
COLUMNS = (
    report.Column("prompt_tokens", "prompt", digits=0, key=True),
    report.Column("answer_tokens", "answer", digits=0, key=True),
    report.Column("refinement", "refinement", key=True),
    report.Column("kept_percent", "kept %", digits=0),
    report.Column("ttft_p50_s", "TTFT ms", scale=1e3, digits=0),
    report.Column("ttft_optimum_s", "optimum", scale=1e3, digits=0),
    report.Column("ttft_over_device_only", "over device", digits=3),
    report.Column("share_within_tpot", "within TPOT", digits=2),
    report.Column("longest_gap_s", "longest gap ms", scale=1e3, digits=1),
    report.Column("tpot_objective_s", "objective", scale=1e3, digits=0),
    report.Column("cloud_tokens", "N", digits=1),
    report.Column("cloud_tokens_optimum", "optimum N", digits=1),
    report.Column("requests_per_s", "requests/s", digits=2),
    report.Column("requests_per_s_bound", "bound", digits=2),
    report.Column("throughput_over_cloud_only", "over CloudOnly", digits=1),
    report.Column("throughput_bound", "bound", digits=1),
    report.Column("compute_overrun_share", "overruns %", scale=1e2, digits=1),
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """One answer as it was shown, in seconds after the request."""

    times_s: tuple[float, ...]
    cloud_tokens: int
    kept: float  # share of the prompt that the device saw

    @property
    def longest_gap_s(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times_s))


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
    return report.Report(
        command=command,
        title=time_scales.title("pd", factor, found=time_scale is None),
        rows=rows,
        columns=COLUMNS,
        summary=_summary(rows, factor),
    )


async def _needed_scale(
    wanted: Sequence[tuple[int, int]],
    *,
    model: Path,
    prompts: dict[int, tuple[prompt_cutter.Prompt, ...]],
    bar: rich.progress.Progress,
) -> float:
    """The time scale at which both tiers keep up with a full cloud at the end of its longest answers."""
    task = bar.add_task("time scale", total=len(time_scales.FACTORS), note="starting both tiers")
    longest = max(prompt + answer for prompt, answer in wanted) - _TRIED_TOKENS
    first = prompts[max(prompts)][0]
    prompt = (first * (longest // len(first) + 1))[:longest]

    async def trial(factor: float) -> float:
        preset = pd_preset.PDPreset().scaled(factor)
        async with pd_system.running(model, preset) as system:
            before = await system.counters()
            await asyncio.gather(
                _one(system.device_only, prompt, _TRIED_TOKENS),
                _serve(system, preset, prompt, cloud_tokens=_TRIED_TOKENS, kept=1.0, answers=preset.sequences),
            )
            return max(_overrun_shares(before, await system.counters()))

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
            alone, handed, refined = list[_Seen](), list[_Seen](), list[_Seen]()
            for prompt in prompts[prompt_tokens]:
                alone.append(await _one(system.device_only, prompt, _SHORT))
                handed.append(await _one(system.whole_prompts, prompt, answer_tokens))
                refined.append(await _one(system.refined_prompts, prompt, answer_tokens))
            bar.update(task, advance=1, note=f"{label}: one user")
            first = prompts[prompt_tokens][0]
            cloud_only = await _capacity(system, preset, first, cloud_tokens=answer_tokens, kept=1.0)
            bar.update(task, advance=1, note=f"{label}: CloudOnly")
            cell = _Cell(preset, prompt_tokens, answer_tokens, alone, cloud_only)
            pair: list[report.Row] = []
            for mode, seen in ((kinds.RefinementMode.OFF, handed), (kinds.RefinementMode.AUTO, refined)):
                given, kept = _median_given(seen), statistics.median(each.kept for each in seen)
                rate = await _capacity(system, preset, first, cloud_tokens=given, kept=kept)
                bar.update(task, advance=1, note=f"{label}: {given} cloud tokens each")
                pair.append(cell.row(mode, seen, rate))
            overruns = _overruns(before, await system.counters())
            rows += [{**row, **overruns, "dtype": system.dtype.value} for row in pair]
    return rows


_Counters = tuple[cells.ComputeCounters, cells.ComputeCounters]


def _overruns(before: _Counters, after: _Counters) -> report.Row:
    """Whether the real compute of a cell kept within the modelled one, on either tier."""
    device, cloud = _overrun_shares(before, after)
    return {
        "compute_overrun_share": max(device, cloud),
        "invalid_because": cells.invalid_because_of(device_share=device, cloud_share=cloud),
    }


def _overrun_shares(before: _Counters, after: _Counters) -> tuple[float, float]:
    """The device's and the cloud's."""
    device, cloud = (cells.overrun_share([now.since(then)]) for then, now in zip(before, after, strict=True))
    return device, cloud


async def _one(strategy: base.Generator, prompt: prompt_cutter.Prompt, new_tokens: int) -> _Seen:
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
    return _Seen(tuple(times_s), origins.count(types.TokenOrigin.CLOUD), 1.0 - left_out / len(prompt))


def _median_given(seen: Sequence[_Seen]) -> int:
    return max(1, round(statistics.median(each.cloud_tokens for each in seen)))


async def _capacity(
    system: pd_system.PDSystem,
    preset: pd_preset.PDPreset,
    prompt: prompt_cutter.Prompt,
    *,
    cloud_tokens: int,
    kept: float,
) -> float:
    """Requests per second of the saturated cloud, each of `cloud_tokens` tokens; it also selects `kept`, if below 1."""
    ended_s = await _serve(
        system, preset, prompt, cloud_tokens=cloud_tokens, kept=kept, answers=(_ROUNDS + 1) * preset.sequences
    )
    counted = ended_s[preset.sequences - 1 :]
    return (len(counted) - 1) / (counted[-1] - counted[0])


async def _serve(
    system: pd_system.PDSystem,
    preset: pd_preset.PDPreset,
    prompt: prompt_cutter.Prompt,
    *,
    cloud_tokens: int,
    kept: float,
    answers: int,
) -> list[float]:
    """Saturates the cloud until so many answers have ended, and says when each did."""
    ended_s: list[float] = []
    enough = asyncio.Event()

    async def client(index: int) -> None:
        await asyncio.sleep(index * preset.cloud.duration_s(len(prompt)))  # or all would be in step for ever
        while not enough.is_set():
            stream = await system.direct.open(
                generation.GenerationOpen(
                    session_id=secrets.token_hex(16),
                    model_digest=system.info.model_digest,
                    tokenizer_digest=system.info.tokenizer_digest,
                    prompt_ids=prompt,
                    max_tokens=cloud_tokens,
                    sampler=generation.Sampler(types.SamplingParams(), seed=0),
                    salt=secrets.token_hex(8),
                    keep_share=kept,
                )
            )
            try:
                while not (await stream.receive()).last:
                    pass
            finally:
                await stream.close()
            ended_s.append(time.perf_counter())
            if len(ended_s) >= answers:
                enough.set()

    clients = [asyncio.ensure_future(client(index)) for index in range(_OVERLOAD * preset.sequences)]
    try:
        waiting = asyncio.ensure_future(enough.wait())
        await asyncio.wait([waiting, *clients], return_when=asyncio.FIRST_COMPLETED)
        for failed in clients:
            if failed.done() and not enough.is_set():
                await failed  # raises why
    finally:
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return ended_s[:answers]


@dataclasses.dataclass(frozen=True, slots=True)
class _Cell:
    """What the rows of one cell share: DeviceOnly's answers, and the requests per second of a cloud that gives all."""

    preset: pd_preset.PDPreset
    prompt_tokens: int
    answer_tokens: int
    alone: Sequence[_Seen]
    cloud_only_per_s: float

    def row(self, refinement: kinds.RefinementMode, seen: Sequence[_Seen], requests_per_s: float) -> report.Row:
        preset, prompt_tokens, given = self.preset, self.prompt_tokens, _median_given(seen)
        ttft_s = statistics.median(each.times_s[0] for each in seen)
        kept = statistics.median(each.kept for each in seen)
        bound, cloud_only_bound = (
            preset.requests_per_s(prompt_tokens=prompt_tokens, cloud_tokens=tokens)
            for tokens in (given, self.answer_tokens)
        )
        return {
            "strategy": "PDDevice",
            "prompt_tokens": prompt_tokens,
            "answer_tokens": self.answer_tokens,
            "refinement": refinement.value,
            "kept_percent": 100.0 * kept,
            "requests": len(seen),
            "ttft_p50_s": ttft_s,
            "ttft_optimum_s": preset.first_token_s(prompt_tokens),
            "ttft_over_device_only": ttft_s / statistics.median(each.times_s[0] for each in self.alone),
            "share_within_tpot": sum(each.longest_gap_s <= preset.tpot_s for each in seen) / len(seen),
            "longest_gap_s": max(each.longest_gap_s for each in seen),
            "tpot_objective_s": preset.tpot_s,
            "cloud_tokens": given,
            "cloud_tokens_optimum": preset.cloud_tokens_optimum(prompt_tokens, kept=kept),
            "requests_per_s": requests_per_s,
            "requests_per_s_bound": bound,
            "requests_per_s_cloud_only": self.cloud_only_per_s,
            "requests_per_s_cloud_only_bound": cloud_only_bound,
            "throughput_over_cloud_only": requests_per_s / self.cloud_only_per_s,
            "throughput_bound": bound / cloud_only_bound,
        }


def _summary(rows: Sequence[report.Row], time_scale: float) -> report.Summary:
    """The worst of each; N against its optimum with whole prompts, and with refined ones against that with whole."""

    def of(name: str, found: Sequence[report.Row] = rows) -> list[float]:
        return [float(row[name] or 0.0) for row in found]

    whole, refined = rows[::2], rows[1::2]  # in pairs, a pair for each cell
    return {
        "time_scale": time_scale,
        "invalid_rows": sum(bool(row["invalid_because"]) for row in rows),
        "ttft_over_device_only": max(of("ttft_over_device_only")),
        "share_within_tpot": min(of("share_within_tpot")),
        "cloud_tokens_over_optimum": _worst(of("cloud_tokens", whole), of("cloud_tokens_optimum", whole)),
        "cloud_tokens_refined_over_whole": _worst(of("cloud_tokens", refined), of("cloud_tokens", whole)),
        "requests_per_s_over_bound": min(
            rate / bound for rate, bound in zip(of("requests_per_s"), of("requests_per_s_bound"), strict=True)
        ),
        "throughput_over_cloud_only": min(of("throughput_over_cloud_only")),
        "throughput_over_cloud_only_512_1024": next(
            (
                float(row["throughput_over_cloud_only"] or 0.0)
                for row in whole
                if (row["prompt_tokens"], row["answer_tokens"]) == (512, 1024)
            ),
            None,
        ),
    }


def _worst(found: Sequence[float], wanted: Sequence[float]) -> float:
    return max(one / other for one, other in zip(found, wanted, strict=True))
