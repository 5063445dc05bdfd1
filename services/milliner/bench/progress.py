"""The progress bar of the strategies' bench: requests weighted by the time that the preset lets them take."""

from __future__ import annotations

import rich.console
import rich.progress

from milliner.bench import optimum, plan, presets

# Time per token over UShape's, by strategy: rough shares for the bar's weights only (docs/algorithms.md).
_STEP_SHARE = {plan.StrategyName.UMEDUSA: 0.6, plan.StrategyName.HAT: 0.45, plan.StrategyName.HAT_SEQUENTIAL: 0.6}
_CHUNK_TOKENS = 256  # likewise: close enough to the optimum for a weight


def expected_s(cell: plan.Cell, *, preset: presets.Preset, new_tokens: int) -> float:
    """About how long one request of the cell takes."""
    whole = cell.variant.strategy in (plan.StrategyName.USHAPE, plan.StrategyName.UMEDUSA)
    ttft_s = optimum.ttft_s(
        preset,
        prompt_tokens=cell.prompt_tokens,
        chunk_tokens=cell.prompt_tokens if whole else min(_CHUNK_TOKENS, cell.prompt_tokens),
        codec=presets.CODEC_NAMES[cell.variant.codec],
    )
    share = _STEP_SHARE.get(cell.variant.strategy, 1.0)
    return ttft_s + (new_tokens - 1) * share * optimum.plain_step_s(preset)


def bar(console: rich.console.Console) -> rich.progress.Progress:
    """A bar with what runs now, elapsed time and ETA; writes nothing where the output is no terminal."""
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.TaskProgressColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("ETA"),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("[dim]{task.fields[note]}"),
        console=console,
    )
