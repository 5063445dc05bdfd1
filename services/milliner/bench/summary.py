"""The ratios that the strategies' bench is run for, from all its requests: each strategy against the baselines. Pure.

Ratios compare cells of the same prompt length and temperature; the headline figures pool requests over prompt lengths.
A figure that the run did not measure is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from milliner.bench import cells, optimum, plan, presets, report

Name = plan.StrategyName


class Observations:
    """All requests of a run, looked up by what cells have in common."""

    def __init__(self, observations: Sequence[cells.Observation]) -> None:
        self._all = tuple(observations)

    def of(
        self,
        strategy: Name,
        *,
        codec: str | None = None,
        prompt_tokens: int | None = None,
        temperature: float | None = None,
    ) -> tuple[cells.Observation, ...]:
        """The requests of a strategy, narrowed by what is given."""
        return tuple(
            o
            for o in self._all
            if o.cell.variant.strategy is strategy
            and codec in (None, o.cell.variant.codec)
            and prompt_tokens in (None, o.cell.prompt_tokens)
            and temperature in (None, o.cell.temperature)
        )

    def measured_cells(self) -> tuple[plan.Cell, ...]:
        return tuple(dict.fromkeys(o.cell for o in self._all))

    def beside(self, cell: plan.Cell, strategy: Name, *, codec: str | None = None) -> tuple[cells.Observation, ...]:
        """Another strategy's requests with the cell's prompt length and temperature, and its codec or `codec`."""
        return self.of(
            strategy,
            codec=codec or cell.variant.codec,
            prompt_tokens=cell.prompt_tokens,
            temperature=cell.temperature,
        )

    def at(self, cell: plan.Cell) -> tuple[cells.Observation, ...]:
        return self.beside(cell, cell.variant.strategy)


def ttft_p50_s(observations: Sequence[cells.Observation]) -> float:
    return cells.percentile([o.summary.ttft_s for o in observations if o.summary.ttft_s is not None], 0.5)


def tbt_p50_s(observations: Sequence[cells.Observation]) -> float:
    """Median over requests of the mean time between tokens."""
    return cells.percentile([cells.mean_gap_s(o) for o in observations], 0.5)


def compare(rows: Sequence[cells.CellRow]) -> list[cells.CellRow]:
    """The rows with their ratios to UShape's rows of the same prompt length and temperature, where those were run."""
    base = {(r.codec, r.prompt_tokens, r.temperature): r for r in rows if r.strategy == Name.USHAPE}
    compared = []
    for row in rows:
        float16 = base.get(("float16", row.prompt_tokens, row.temperature))
        same = base.get((row.codec, row.prompt_tokens, row.temperature))
        compared.append(
            dataclasses.replace(
                row,
                ttft_over_ushape_float16=row.ttft_p50_s / float16.ttft_p50_s if float16 else None,
                tbt_over_ushape=row.tbt_p50_s / same.tbt_p50_s if same else None,
            )
        )
    return compared


def summarise(
    observations: Sequence[cells.Observation], *, preset: presets.Preset, optima: Mapping[tuple[str, int], float]
) -> report.Summary:
    """The report's summary. `optima`: the best TTFT that the preset allows, by (codec, prompt tokens), in seconds."""
    seen = Observations(observations)
    result: dict[str, report.Scalar | Mapping[str, report.Scalar]] = {
        "ttft_over_optimum": {
            c.label: ttft_p50_s(seen.at(c)) / optima[c.variant.codec, c.prompt_tokens] for c in seen.measured_cells()
        },
        "ttft_over_ushape_float16": over(seen, Name.USHAPE, ttft_p50_s, codec="float16"),
        "tbt_over_ushape": over(seen, Name.USHAPE, tbt_p50_s),
        "hat_ttft_over_usarathi": over(seen, Name.USARATHI, ttft_p50_s, only=Name.HAT),
        "hat_tbt_over_usarathi": over(seen, Name.USARATHI, tbt_p50_s, only=Name.HAT),
        "hat_ttft_over_umedusa": over(seen, Name.UMEDUSA, ttft_p50_s, only=Name.HAT),
        "hat_tbt_over_umedusa": over(seen, Name.UMEDUSA, tbt_p50_s, only=Name.HAT),
        "parallel_drafting_tbt_share": over(seen, Name.HAT_SEQUENTIAL, tbt_p50_s, only=Name.HAT),
        "ushape_plain_step_model_s": optimum.plain_step_s(preset),
    }
    result |= _pooled(seen)
    for strategy in (Name.USHAPE, Name.HAT):
        result[f"{strategy}_round_ms".lower()] = round_ms(seen.of(strategy))
    return {name: value for name, value in result.items() if value not in ({}, None)}


def round_ms(observations: Sequence[cells.Observation]) -> dict[str, float]:
    """Where a round after prefill goes: mean milliseconds of each phase on the critical path, and what none explains.

    Phases that overlap with others (drafting ahead) are left out; what is missing to `total` is the last entry.
    """
    rounds = [r for o in observations for r in o.summary.rounds if r.index > 0]
    if not rounds:
        return {}
    sums: dict[str, float] = {}
    for span in (span for r in rounds for span in r.phases if not span.hidden):
        sums[span.phase] = sums.get(span.phase, 0.0) + span.duration_s
    total_s = sum(r.duration_s for r in rounds)
    parts = {**sums, "total": total_s, "unexplained": total_s - sum(sums.values())}
    return {name: 1e3 * seconds / len(rounds) for name, seconds in parts.items()}


def _pooled(seen: Observations) -> dict[str, report.Scalar]:
    """Headlines over all prompt lengths; codecs pooled where the prompt's codec plays no part."""
    result: dict[str, report.Scalar] = {}
    for temperature in dict.fromkeys(c.temperature for c in seen.measured_cells()):
        base = seen.of(Name.USHAPE, codec="float16", temperature=temperature)
        for strategy in (Name.HAT, Name.HAT_SEQUENTIAL, Name.UMEDUSA):
            ours = seen.of(strategy, codec="float16", temperature=temperature)
            if ours and base:
                name = f"{strategy}_tbt_over_ushape_float16_T{temperature:g}".lower()
                result[name] = tbt_p50_s(ours) / tbt_p50_s(base)
    hat, sequential = (seen.of(s, codec="float16") for s in (Name.HAT, Name.HAT_SEQUENTIAL))
    if hat and sequential:
        result["parallel_drafting_speedup"] = tbt_p50_s(sequential) / tbt_p50_s(hat)
    result["hidden_draft_share"] = cells.hidden_draft_share(seen.of(Name.HAT))
    for strategy in (Name.HAT, Name.UMEDUSA):
        result[f"{strategy}_acceptance_length".lower()] = cells.acceptance_length(seen.of(strategy))
    for codec in dict.fromkeys(c.variant.codec for c in seen.measured_cells()):
        result[f"hat_token_agreement_{codec}"] = cells.token_agreement(seen.of(Name.HAT, codec=codec))
    return {name: value for name, value in result.items() if value is not None}


def over(
    seen: Observations,
    baseline: Name,
    figure: Callable[[Sequence[cells.Observation]], float],
    *,
    codec: str | None = None,
    only: Name | None = None,
) -> dict[str, float]:
    """A figure of each cell over the baseline's beside it, by the cell's label; cells without one are left out."""
    return {
        cell.label: figure(seen.at(cell)) / figure(base)
        for cell in seen.measured_cells()
        if (cell.variant.strategy is not baseline or (codec and cell.variant.codec != codec))
        and only in (None, cell.variant.strategy)
        and (base := seen.beside(cell, baseline, codec=codec))
    }
