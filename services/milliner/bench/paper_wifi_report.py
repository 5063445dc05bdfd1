"""The report of the strategies' bench, measured or modelled: columns, rows with their ratios, summary. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from milliner.bench import cells, optimum, plan, presets, report, summary, targets

PRINTED = ("ushape_round_ms", "hat_round_ms")  # of the summary's groups; the others repeat the columns
PAUSE_S = 0.05  # between requests, at time scale 1; arbitrary: the longest draft step is a fifth of it

COLUMNS = (
    report.Column("temperature", "T", digits=1, key=True),
    report.Column("prompt_tokens", "prompt", key=True),
    report.Column("strategy", "strategy", key=True),
    report.Column("codec", "codec", key=True),
    report.Column("ttft_p50_s", "TTFT ms\np50", 1e3, 0),
    report.Column("ttft_p95_s", "\np95", 1e3, 0),
    report.Column("ttft_optimum_s", "opti-\nmum", 1e3, 0),
    report.Column("ttft_over_optimum", "over\nopt."),
    report.Column("ttft_over_ushape_float16", "over\nUShape\nfloat16"),
    report.Column("tbt_p50_s", "TBT ms\np50", 1e3, 1),
    report.Column("tbt_p95_s", "\np95", 1e3, 1),
    report.Column("tbt_over_ushape", "over\nUShape"),
    report.Column("tpot_p50_s", "TPOT ms\np50", 1e3, 1),
    report.Column("tpot_p95_s", "\np95", 1e3, 1),
    report.Column("emission_gap_p50_s", "gap ms\np50", 1e3, 0),
    report.Column("emission_gap_p95_s", "\np95", 1e3, 0),
    report.Column("acceptance_length", "acc.\nlen."),
    report.Column("hidden_draft_share", "hidden\ndrafts"),
    report.Column("bytes_up_per_token", "bytes/token\nup", digits=0),
    report.Column("bytes_down_per_token", "\ndown", digits=0),
    report.Column("cloud_busy_ms_per_token", "cloud\nms/token", digits=1),
    report.Column("token_agreement", "agree-\nment", digits=3),
    report.Column("compute_overrun_share", "over-\nruns %", 1e2, 1),
)


def build(
    run_plan: plan.Plan,
    observations: Sequence[cells.Observation],
    *,
    preset: presets.Preset,
    command: str,
    title: str,
    more: report.Row | None = None,
) -> report.Report:
    """The report of a run that measured every cell of the plan; `preset` is the one that it ran on.

    `more` joins the summary.
    """
    optima = {
        (codec, length): optimum.optimum(preset, prompt_tokens=length, codec=presets.CODEC_NAMES[codec]).ttft_s
        for codec in run_plan.codecs
        for length in run_plan.prompt_tokens
    }
    rows = [
        cells.row(
            cell,
            [o for o in observations if o.cell == cell],
            ttft_optimum_s=optima[cell.variant.codec, cell.prompt_tokens],
        )
        for cell in run_plan.cells
    ]
    figures = summary.summarise(observations, preset=preset, optima=optima)
    found = targets.targets(summary.Observations(observations), optima)
    return report.Report(
        command=command,
        title=f"{title}: one user, {run_plan.new_tokens} new tokens",
        rows=[dataclasses.asdict(row) for row in summary.compare(rows)],
        columns=COLUMNS,
        summary={
            "time_scale": preset.time_scale,
            "invalid_rows": sum(bool(row.invalid_because) for row in rows),
            **(more or {}),
            **figures,
            "targets": {target.label: target.verdict for target in found},
        },
        headlines=targets.headlines(found),
        not_printed=tuple(name for name, value in figures.items() if isinstance(value, dict) and name not in PRINTED),
    )
