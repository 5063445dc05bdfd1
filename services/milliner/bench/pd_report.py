"""The report of preset pd: what one user saw and what a saturated cloud served, as rows; summary and targets. Pure."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence

from milliner.bench import cells, pd_preset, report, targets
from milliner.contract import kinds

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
class Seen:
    """One answer as it was shown, in seconds after the request."""

    times_s: tuple[float, ...]
    cloud_tokens: int
    kept: float  # share of the prompt that the device saw

    @property
    def longest_gap_s(self) -> float:
        return max(later - earlier for earlier, later in itertools.pairwise(self.times_s))


Counters = tuple[cells.ComputeCounters, cells.ComputeCounters]


def overruns(before: Counters, after: Counters) -> report.Row:
    """Whether the real compute of a cell kept within the modelled one, on either tier."""
    device, cloud = overrun_shares(before, after)
    return {
        "compute_overrun_share": max(device, cloud),
        "invalid_because": cells.invalid_because_of(device_share=device, cloud_share=cloud),
    }


def overrun_shares(before: Counters, after: Counters) -> tuple[float, float]:
    """The device's and the cloud's."""
    device, cloud = (cells.overrun_share([now.since(then)]) for then, now in zip(before, after, strict=True))
    return device, cloud


def median_given(seen: Sequence[Seen]) -> int:
    """Tokens that the cloud gave of an answer."""
    return max(1, round(statistics.median(each.cloud_tokens for each in seen)))


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """What the rows of one cell share: DeviceOnly's answers, and the requests per second of a cloud that gives all."""

    preset: pd_preset.PDPreset
    prompt_tokens: int
    answer_tokens: int
    alone: Sequence[Seen]
    cloud_only_per_s: float

    def row(self, refinement: kinds.RefinementMode, seen: Sequence[Seen], requests_per_s: float) -> report.Row:
        preset, prompt_tokens, given = self.preset, self.prompt_tokens, median_given(seen)
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


def build(rows: Sequence[report.Row], *, time_scale: float, title: str, command: str) -> report.Report:
    """The report of all cells: pairs of rows, with whole prompts and with refined ones."""
    found = _targets(rows)
    return report.Report(
        command=command,
        title=title,
        rows=rows,
        columns=COLUMNS,
        headlines=targets.headlines(found),
        summary={**_worst_of_each(rows, time_scale), "targets": {target.label: target.verdict for target in found}},
    )


def _targets(rows: Sequence[report.Row]) -> list[targets.Target]:
    """What is asked of preset pd, as far as this run measured it."""
    found = list[targets.Target]()
    for whole, refined in zip(rows[::2], rows[1::2], strict=True):
        lengths = f"{whole['prompt_tokens']}/{whole['answer_tokens']}"
        found += [*_targets_of(whole, lengths), *_targets_of(refined, f"{lengths} refined")]
        off = abs(_of(whole, "cloud_tokens") / _of(whole, "cloud_tokens_optimum") - 1.0)
        fewer = _of(refined, "cloud_tokens") / _of(whole, "cloud_tokens")
        found.append(targets.Target("cloud tokens", lengths, f"{lengths} N off its optimum", off, 0.15))
        found.append(targets.Target("cloud tokens", f"{lengths} refined", f"{lengths} N refined / whole", fewer, 1.0))
        if lengths == "512/1024":
            gain, name = _of(whole, "throughput_over_cloud_only"), f"{lengths} requests/s / CloudOnly"
            found.append(targets.Target("saturated cloud", f"{lengths} / CloudOnly", name, gain, 12.0, at_least=True))
    return found


def _targets_of(row: report.Row, case: str) -> list[targets.Target]:
    """Those of every row."""
    ttft, pace = _of(row, "ttft_over_device_only"), _of(row, "share_within_tpot")
    rate = _of(row, "requests_per_s") / _of(row, "requests_per_s_bound")
    return [
        targets.Target("TTFT / DeviceOnly", case, f"{case} TTFT / DeviceOnly", ttft, 0.20),
        targets.Target("answers within TPOT", case, f"{case} answers within TPOT", pace, 0.99, at_least=True),
        targets.Target("saturated cloud", case, f"{case} requests/s / bound", rate, 0.85, at_least=True),
    ]


def _worst_of_each(rows: Sequence[report.Row], time_scale: float) -> dict[str, report.Scalar]:
    """N against its optimum with whole prompts, and with refined ones against that with whole."""

    def of(name: str, found: Sequence[report.Row] = rows) -> list[float]:
        return [_of(row, name) for row in found]

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
                _of(row, "throughput_over_cloud_only")
                for row in whole
                if (row["prompt_tokens"], row["answer_tokens"]) == (512, 1024)
            ),
            None,
        ),
    }


def _worst(found: Sequence[float], wanted: Sequence[float]) -> float:
    return max(one / other for one, other in zip(found, wanted, strict=True))


def _of(row: report.Row, name: str) -> float:
    return float(row[name] or 0.0)
