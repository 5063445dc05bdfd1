"""The refiner's gains: paired, with their noise; targets that are missed are called so; the summary holds the worst."""

from __future__ import annotations

import json

import pytest

from milliner.bench import far_prompts, refine_report, refined_answers, report, selections

Selection = selections.Selection
PLAIN, QUOTE = far_prompts.Kind.PLAIN, far_prompts.Kind.QUOTE


def measured(kind: far_prompts.Kind, percent: int, gain: float, *, text: str = "prose") -> refine_report.Measured:
    """A prompt for which the refiner is `gain` nats, and a tenth of it in agreement, ahead of all others."""
    other = refined_answers.Fit(agreement=0.5, greedy_log_likelihood=-1.0, log_likelihood=-2.0)
    own = refined_answers.Fit(0.5 + gain / 10, -1.0, -2.0 + gain)
    fits = {selection: own if selection is Selection.ATTENTION else other for selection in Selection}
    return refine_report.Measured(kind, text, percent, fits)


def built(*all_of: refine_report.Measured) -> report.Report:
    return refine_report.build(all_of, command="test", title="test")


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([0.1, 0.2, 0.15, 0.12], "met"),
        ([0.1, -0.09, 0.15, -0.12], "level within noise"),
        ([0.1, -0.11, 0.1, -0.12], "MISSED within noise"),
        ([-0.1, -0.2, -0.15, -0.12], "MISSED"),
        ([0.0, 0.0], "MISSED within noise"),
    ],
)
def test_a_gain_is_met_only_beyond_its_noise(differences: list[float], verdict: str) -> None:
    assert refine_report.Gain.of(differences).verdict == verdict


def test_a_gain_is_paired_and_a_tie_counts_half() -> None:
    gain = refine_report.Gain.of([0.3, 0.1, 0.0, -0.2])
    assert (gain.mean, gain.median, gain.higher_share) == pytest.approx((0.05, 0.05, 0.625))
    assert gain.error == pytest.approx(0.2082 / 2, abs=1e-4)


def test_a_missed_target_is_called_so_and_the_summary_holds_the_worst_ratio() -> None:
    result = built(
        *(measured(PLAIN, 30, gain) for gain in (0.30, 0.32, 0.31)),
        *(measured(PLAIN, 50, gain) for gain in (-0.10, -0.12, -0.11)),
        *(measured(QUOTE, 30, gain) for gain in (0.50, 0.52, 0.51)),
    )
    plain_30, plain_50, quote_30 = result.headlines
    assert plain_30.startswith("plain, 30 % kept") and plain_30.count("met") == 4 and "MISSED" not in plain_30
    assert plain_50.count("MISSED") == 4 and quote_30.count("met") == 4
    plain, quote = result.summary["plain"], result.summary["quote"]
    assert isinstance(plain, dict) and isinstance(quote, dict)
    assert plain["log_likelihood_over_head_and_tail"] == pytest.approx(-0.11)
    assert (plain["targets"], plain["targets_met"], plain["targets_met_beyond_noise"]) == (8, 4, 4)
    assert quote["agreement_over_random"] == pytest.approx(0.051)


def test_rows_are_flat_and_gains_are_the_others() -> None:
    result = built(measured(PLAIN, 30, 0.2), measured(PLAIN, 30, 0.4, text="code"))
    assert len(result.rows) == 3 * len(Selection)
    document = json.loads(result.to_json())
    row = next(row for row in document["rows"] if (row["text"], row["selection"]) == ("all", "random"))
    assert row["log_likelihood_gain_mean"] == pytest.approx(0.3) and row["prompts"] == 2
    assert all(row["agreement_gain_mean"] is None for row in document["rows"] if row["selection"] == "attention")
