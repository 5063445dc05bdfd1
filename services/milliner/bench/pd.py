"""`milliner bench --preset pd`: P/D-Device beside DeviceOnly for one user, and what a saturated cloud serves beside
CloudOnly. Real processes, link and compute emulated (`pd_preset`).

One user: DeviceOnly and P/D-Device answer prompts of their own, turn by turn; shown tokens are timed at the strategy's
end. Capacity: clients that play only the cloud's part of many devices (prompt in, N tokens out, then gone) keep three
times as many requests in flight as the cloud goes on with; completions after the first `sequences` of them are counted.
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
import tokenizers

from milliner.bench import pd_preset, pd_system, progress, report
from milliner.bench import prompts as prompt_cutter
from milliner.core import clock, errors, generation, types
from milliner.strategies import base
from milliner.telemetry import record

CELLS = tuple(itertools.product((512, 2048), (256, 1024)))
QUICK_CELLS = ((512, 64),)
_OVERLOAD = 3  # requests in flight for each place in the cloud; arbitrary: somebody always waits
_ROUNDS = 2  # completions per place that are counted; arbitrary
_SHORT = 2  # tokens of DeviceOnly's answers: only its first one is asked for
COLUMNS = (
    report.Column("prompt_tokens", "prompt", digits=0, key=True),
    report.Column("answer_tokens", "answer", digits=0, key=True),
    report.Column("ttft_p50_s", "TTFT ms", scale=1e3, digits=0),
    report.Column("ttft_optimum_s", "optimum", scale=1e3, digits=0),
    report.Column("ttft_over_device_only", "over device", digits=3),
    report.Column("share_within_tpot", "within TPOT", digits=2),
    report.Column("longest_gap_s", "longest gap ms", scale=1e3, digits=0),
    report.Column("cloud_tokens", "N", digits=1),
    report.Column("cloud_tokens_optimum", "optimum N", digits=1),
    report.Column("requests_per_s", "requests/s", digits=2),
    report.Column("requests_per_s_bound", "bound", digits=2),
    report.Column("throughput_over_cloud_only", "over CloudOnly", digits=1),
    report.Column("throughput_bound", "bound", digits=1),
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """One answer as it was shown, in seconds after the request."""

    times_s: tuple[float, ...]
    cloud_tokens: int

    @property
    def longest_gap_s(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times_s))


def run(
    *,
    model: Path,
    texts: Sequence[str],
    requests: int,
    quick: bool,
    time_scale: float,
    command: str,
    console: rich.console.Console,
) -> report.Report:
    """Measures all cells. Raises `ConfigError`s for what cannot run."""
    if time_scale <= 0:
        raise errors.ConfigError(f"is {time_scale:g}: a factor above 0 is needed", field="--time-scale")
    cells = QUICK_CELLS if quick else CELLS
    preset = pd_preset.PDPreset().scaled(time_scale)
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    cut = prompt_cutter.cut(
        texts,
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lengths=sorted({prompt for prompt, _ in cells}),
        count=requests,
    )
    rows = asyncio.run(_measure(cells, model=model, preset=preset, prompts=cut, console=console))
    return report.Report(
        command=command,
        title=f"pd, time scale {time_scale:g}",
        rows=rows,
        columns=COLUMNS,
        summary=_summary(rows, time_scale),
    )


async def _measure(
    cells: Sequence[tuple[int, int]],
    *,
    model: Path,
    preset: pd_preset.PDPreset,
    prompts: dict[int, tuple[prompt_cutter.Prompt, ...]],
    console: rich.console.Console,
) -> list[report.Row]:
    rows: list[report.Row] = []
    with progress.bar(console) as bar:
        task = bar.add_task("measuring", total=3 * len(cells), note="starting both tiers")
        async with pd_system.running(model, preset) as system:
            for prompt_tokens, answer_tokens in cells:
                label = f"{prompt_tokens}/{answer_tokens}"
                alone, seen = [], []
                for prompt in prompts[prompt_tokens]:
                    alone.append(await _one(system.device_only, prompt, _SHORT))
                    seen.append(await _one(system.pd_device, prompt, answer_tokens))
                bar.update(task, advance=1, note=f"{label}: one user")
                given = round(statistics.median(each.cloud_tokens for each in seen))
                rates = []
                for cloud_tokens in (given, answer_tokens):
                    rates.append(
                        await _capacity(system, preset, prompts[prompt_tokens][0], cloud_tokens=max(1, cloud_tokens))
                    )
                    bar.update(task, advance=1, note=f"{label}: {cloud_tokens} cloud tokens each")
                rows.append(
                    _row(preset, prompt_tokens, answer_tokens, alone=alone, seen=seen, given=given, rates=rates)
                )
    return rows


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
    told.finish(finish_reason="length")
    if len(origins) != new_tokens:
        raise errors.UnavailableError(f"{len(origins)} tokens came, {new_tokens} asked for", field="bench")
    return _Seen(tuple(times_s), origins.count(types.TokenOrigin.CLOUD))


async def _capacity(
    system: pd_system.PDSystem, preset: pd_preset.PDPreset, prompt: prompt_cutter.Prompt, *, cloud_tokens: int
) -> float:
    """Requests per second of the saturated cloud, each of `cloud_tokens` tokens."""
    wanted = (_ROUNDS + 1) * preset.sequences
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
                )
            )
            try:
                while not (await stream.receive()).last:
                    pass
            finally:
                await stream.close()
            ended_s.append(time.perf_counter())
            if len(ended_s) >= wanted:
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
    counted = ended_s[preset.sequences - 1 : wanted]
    return (len(counted) - 1) / (counted[-1] - counted[0])


def _row(
    preset: pd_preset.PDPreset,
    prompt_tokens: int,
    answer_tokens: int,
    *,
    alone: Sequence[_Seen],
    seen: Sequence[_Seen],
    given: int,
    rates: Sequence[float],
) -> report.Row:
    handed, cloud_only = rates
    ttft_s = statistics.median(each.times_s[0] for each in seen)
    bounds = [
        preset.requests_per_s(prompt_tokens=prompt_tokens, cloud_tokens=tokens) for tokens in (given, answer_tokens)
    ]
    return {
        "strategy": "PDDevice",
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "requests": len(seen),
        "ttft_p50_s": ttft_s,
        "ttft_optimum_s": preset.first_token_s(prompt_tokens),
        "ttft_over_device_only": ttft_s / statistics.median(each.times_s[0] for each in alone),
        "share_within_tpot": sum(each.longest_gap_s <= preset.tpot_s for each in seen) / len(seen),
        "longest_gap_s": max(each.longest_gap_s for each in seen),
        "cloud_tokens": given,
        "cloud_tokens_optimum": preset.cloud_tokens_optimum(prompt_tokens),
        "requests_per_s": handed,
        "requests_per_s_bound": bounds[0],
        "requests_per_s_cloud_only": cloud_only,
        "requests_per_s_cloud_only_bound": bounds[1],
        "throughput_over_cloud_only": handed / cloud_only,
        "throughput_bound": bounds[0] / bounds[1],
    }


def _summary(rows: Sequence[report.Row], time_scale: float) -> report.Summary:
    """The worst of each."""

    def of(name: str) -> list[float]:
        return [float(row[name] or 0.0) for row in rows]

    return {
        "time_scale": time_scale,
        "ttft_over_device_only": max(of("ttft_over_device_only")),
        "share_within_tpot": min(of("share_within_tpot")),
        "cloud_tokens_over_optimum": max(
            n / best for n, best in zip(of("cloud_tokens"), of("cloud_tokens_optimum"), strict=True)
        ),
        "requests_per_s_over_bound": min(
            rate / bound for rate, bound in zip(of("requests_per_s"), of("requests_per_s_bound"), strict=True)
        ),
        "throughput_over_cloud_only": min(of("throughput_over_cloud_only")),
        "throughput_over_cloud_only_512_1024": next(
            (
                float(row["throughput_over_cloud_only"] or 0.0)
                for row in rows
                if (row["prompt_tokens"], row["answer_tokens"]) == (512, 1024)
            ),
            None,
        ),
    }
