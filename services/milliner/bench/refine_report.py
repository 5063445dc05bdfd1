"""The report of `bench.refine`: rows with what the refiner gains, whether it beats whom it has to beat, summary. Pure.

A row is a selection at a ratio, over the prompts of one kind and one source of text. Its gains are the refiner's
figure less the selection's own for the same prompt: the mean, its standard error, and the share of prompts where the
refiner's is higher (a tie counts half). The refiner has to beat random spans, and head and tail, in both figures: that
the mean is above zero is what is asked; within two standard errors of zero it is called noise. The summary holds for
every kind of prompt the worst gains of all ratios.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from milliner.bench import far_prompts, refined_answers, report, selections

CODE, PROSE, ALL = "code", "prose", "all"
OWN = selections.Selection.ATTENTION
TO_BEAT = (selections.Selection.RANDOM, selections.Selection.HEAD_TAIL)
NOISE_ERRORS = 2.0  # about a 95 % interval

COLUMNS = (
    report.Column("kind", "prompts", key=True),
    report.Column("keep_percent", "kept %", key=True),
    report.Column("text", "text", key=True),
    report.Column("selection", "selection", key=True),
    report.Column("prompts", "number"),
    report.Column("agreement_median", "agreement", digits=3),
    report.Column("agreement_mean", "mean", digits=3),
    report.Column("log_likelihood_median", "log-likelihood", digits=3),
    report.Column("log_likelihood_mean", "mean", digits=3),
    report.Column("greedy_log_likelihood_median", "of the greedy answer", digits=3),
    report.Column("agreement_gain_mean", "refiner gains: agreement", digits=4),
    report.Column("agreement_gain_error", "±", digits=4),
    report.Column("log_likelihood_gain_mean", "log-likelihood", digits=4),
    report.Column("log_likelihood_gain_error", "±", digits=4),
    report.Column("log_likelihood_gain_median", "median", digits=4),
    report.Column("refiner_higher_share", "higher in", digits=2),
)

GAIN_FIELDS = tuple(column.field for column in COLUMNS[-6:])

Fits = Mapping[selections.Selection, refined_answers.Fit]


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """One prompt at one ratio: how the answer fits behind each selection."""

    kind: far_prompts.Kind
    text: str
    keep_percent: int
    fits: Fits


@dataclasses.dataclass(frozen=True, slots=True)
class Gain:
    """What the refiner is ahead, for the same prompts: the mean, its standard error, the median."""

    mean: float
    error: float
    median: float
    higher_share: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Gain:
        error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
        higher = statistics.fmean((difference > 0) + (difference == 0) / 2 for difference in differences)
        return cls(statistics.fmean(differences), error, statistics.median(differences), higher)

    @property
    def verdict(self) -> str:
        """In a word: ahead, or not, and whether that is more than noise."""
        if abs(self.mean) <= NOISE_ERRORS * self.error or not self.mean:
            return "level within noise" if self.mean > 0 else "MISSED within noise"
        return "met" if self.mean > 0 else "MISSED"


def build(measured: Sequence[Measured], *, command: str, title: str) -> report.Report:
    """The report of prompts in the order measured."""
    return report.Report(
        command=command,
        rows=list(_rows(measured)),
        summary=_summary(measured),
        title=title,
        headlines=list(_headlines(measured)),
        columns=COLUMNS,
    )


def gains(of: Sequence[Fits], other: selections.Selection) -> dict[str, Gain]:
    """What the refiner gains over another selection, by figure."""
    return {
        "agreement": Gain.of([fits[OWN].agreement - fits[other].agreement for fits in of]),
        "log_likelihood": Gain.of([fits[OWN].log_likelihood - fits[other].log_likelihood for fits in of]),
    }


def _cells(measured: Sequence[Measured]) -> Iterable[tuple[far_prompts.Kind, int, list[Measured]]]:
    """By kind and ratio, in the order in which they come first."""
    for kind, percent in dict.fromkeys((each.kind, each.keep_percent) for each in measured):
        yield kind, percent, [each for each in measured if each.kind is kind and each.keep_percent == percent]


def _rows(measured: Sequence[Measured]) -> Iterable[report.Row]:
    texts = sorted({each.text for each in measured})
    for kind, percent, cell in _cells(measured):
        for text in (ALL, *texts) if len(texts) > 1 else texts:
            of = [each.fits for each in cell if text in (ALL, each.text)]
            for selection in selections.Selection:
                head: report.Row = {
                    "kind": kind.value,
                    "keep_percent": percent,
                    "text": text,
                    "selection": selection.value,
                }
                yield {**head, **_figures([each[selection] for each in of]), **_gain_figures(of, selection)}


def _figures(fits: Sequence[refined_answers.Fit]) -> report.Row:
    return {
        "prompts": len(fits),
        "agreement_median": statistics.median(fit.agreement for fit in fits),
        "agreement_mean": statistics.fmean(fit.agreement for fit in fits),
        "log_likelihood_median": statistics.median(fit.log_likelihood for fit in fits),
        "log_likelihood_mean": statistics.fmean(fit.log_likelihood for fit in fits),
        "greedy_log_likelihood_median": statistics.median(fit.greedy_log_likelihood for fit in fits),
    }


def _gain_figures(of: Sequence[Fits], other: selections.Selection) -> report.Row:
    """Null for the refiner itself."""
    if other is OWN:
        return dict.fromkeys(GAIN_FIELDS)
    agreement, likelihood = gains(of, other).values()
    figures = (agreement.mean, agreement.error, likelihood.mean, likelihood.error, likelihood.median)
    return dict(zip(GAIN_FIELDS, (*figures, likelihood.higher_share), strict=True))


def _headlines(measured: Sequence[Measured]) -> Iterable[str]:
    """A line for each kind of prompt and ratio: the refiner over those whom it has to beat."""
    for kind, percent, cell in _cells(measured):
        parts = []
        for other in TO_BEAT:
            for name, gain in gains([each.fits for each in cell], other).items():
                figure = f"{name.replace('_', '-')} over {other.value}"
                parts.append(f"{figure} {gain.mean:+.4f} ± {gain.error:.4f} {gain.verdict}")
        yield f"{kind.value}, {percent} % kept: {' · '.join(parts)}"


def _summary(measured: Sequence[Measured]) -> report.Summary:
    """For each kind of prompt, over all ratios: the worst mean gain over each other selection, and the targets met."""
    summary: dict[str, dict[str, report.Scalar]] = {}
    for kind, _, cell in _cells(measured):
        entry = summary.setdefault(kind.value, {"targets": 0, "targets_met": 0, "targets_met_beyond_noise": 0})
        of = [each.fits for each in cell]
        for other in (each for each in selections.Selection if each is not OWN):
            for name, gain in gains(of, other).items():
                key = f"{name}_over_{other.value.replace(' ', '_')}"
                known = entry.get(key)
                entry[key] = gain.mean if known is None else min(float(known), gain.mean)
                if other in TO_BEAT:
                    _count(entry, gain)
    return summary


def _count(entry: dict[str, report.Scalar], gain: Gain) -> None:
    for name, counted in (
        ("targets", True),
        ("targets_met", gain.mean > 0),
        ("targets_met_beyond_noise", gain.verdict == "met"),
    ):
        entry[name] = int(entry[name] or 0) + counted
