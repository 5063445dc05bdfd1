from __future__ import annotations

import dataclasses

import pytest

from milliner.bench import cells, plan, presets, summary, targets
from milliner.telemetry import summary as telemetry_summary

USHAPE = plan.Variant(plan.StrategyName.USHAPE, "float16")
HAT = plan.Variant(plan.StrategyName.HAT, "float16")
QUICK = cells.ComputeCounters(calls=100)
CLOUD = cells.ComputeCounters(calls=100, busy_s=0.1)


def request_summary(
    *, ttft_s: float, gaps_s: tuple[float, ...], tokens: int, **counters: int
) -> telemetry_summary.RequestSummary:
    return telemetry_summary.RequestSummary(
        request_id="r",
        operation="text_completion",
        model="demo",
        strategy="Hat",
        prompt_tokens=512,
        generated_tokens=tokens,
        finish_reason="length",
        error_type=None,
        duration_s=ttft_s + sum(gaps_s),
        ttft_s=ttft_s,
        tbt_s=gaps_s,
        tpot_s=sum(gaps_s) / (tokens - 1),
        phases_s={},
        hidden_phases_s={},
        counters=counters,
        rounds=(),
        outside_rounds=(),
    )


def observation(
    variant: plan.Variant = HAT,
    *,
    ttft_s: float = 0.5,
    gaps_s: tuple[float, ...] = (0.05,) * 4,
    tokens: int = 5,
    prompt_tokens: int = 512,
    temperature: float = 0.0,
    ids: tuple[int, ...] = (1, 2, 3, 4, 5),
    reference_ids: tuple[int, ...] | None = (1, 2, 3, 4, 5),
    device: cells.ComputeCounters = QUICK,
    cloud: cells.ComputeCounters = CLOUD,
    **counters: int,
) -> cells.Observation:
    return cells.Observation(
        cell=plan.Cell(variant, prompt_tokens, temperature),
        summary=request_summary(ttft_s=ttft_s, gaps_s=gaps_s, tokens=tokens, **counters),
        token_ids=ids,
        reference_ids=reference_ids,
        device=device,
        cloud=cloud,
    )


def _row(*observations: cells.Observation) -> cells.CellRow:
    return cells.row(observations[0].cell, observations, ttft_optimum_s=0.4)


def test_a_row_has_the_fields_of_the_issue() -> None:
    asked = """
        strategy codec prompt_tokens temperature requests ttft_p50_s ttft_p95_s ttft_optimum_s tbt_p50_s tbt_p95_s
        tpot_p50_s acceptance_length bytes_up_per_token bytes_down_per_token cloud_busy_ms_per_token token_agreement
        hidden_draft_share compute_overrun_share
    """
    assert set(asked.split()) <= {f.name for f in dataclasses.fields(cells.CellRow)}


def test_tokens_that_come_together_share_their_gap() -> None:
    # 1 token, then two rounds of 2 tokens after 60 ms each: 120 ms over 4 tokens, but a reader waits 60 ms twice
    row = _row(observation(gaps_s=(0.06, 0.06), tokens=5))
    assert row.tbt_p50_s == pytest.approx(0.03)
    assert row.tpot_p50_s == pytest.approx(0.03)
    assert row.emission_gap_p50_s == pytest.approx(0.06)


def test_counts_are_pooled_over_requests() -> None:
    first = observation(
        num_rounds=4, num_drafted=12, num_accepted=6, num_drafted_rounds=4, num_hidden_rounds=1, bytes_up=90
    )
    second = observation(
        num_rounds=2, num_drafted=6, num_accepted=6, num_drafted_rounds=2, num_hidden_rounds=2, bytes_up=10
    )
    row = _row(first, second)
    assert row.acceptance_length == pytest.approx(1 + 12 / 6)
    assert row.hidden_draft_share == pytest.approx(0.5)
    assert row.bytes_up_per_token == pytest.approx(10)
    assert row.cloud_busy_ms_per_token == pytest.approx(20)


def test_without_drafts_there_is_no_acceptance_length() -> None:
    row = _row(observation(num_rounds=4))
    assert row.acceptance_length is None
    assert row.hidden_draft_share is None


@pytest.mark.parametrize(
    ("ids", "agreement"),
    [((1, 2, 3, 4, 5), 1.0), ((1, 2, 9, 4, 5), 2 / 3), ((9, 2, 3, 4, 5), 0.0), ((1, 2, 3), 3 / 4)],
)
def test_agreement_counts_up_to_the_first_difference(ids: tuple[int, ...], agreement: float) -> None:
    assert cells.token_agreement([observation(ids=ids)]) == pytest.approx(agreement)


def test_agreement_over_requests_adds_one_for_each_that_differs() -> None:
    # 5 equal + 2 equal, one answer differs: 7 / 8
    assert cells.token_agreement([observation(), observation(ids=(1, 2, 9, 4, 5))]) == pytest.approx(7 / 8)


def test_sampled_answers_have_no_agreement() -> None:
    assert _row(observation(reference_ids=None)).token_agreement is None


@pytest.mark.parametrize(("overruns", "invalid"), [(1, False), (2, True)])
def test_a_row_is_invalid_above_one_percent_of_overruns_on_either_tier(overruns: int, invalid: bool) -> None:
    slow = cells.ComputeCounters(calls=100, overruns=overruns)
    for row in (_row(observation(device=slow)), _row(observation(cloud=slow))):
        assert row.compute_overrun_share == pytest.approx(overruns / 100)
        assert bool(row.invalid_because) is invalid


def test_counters_since_an_earlier_reading() -> None:
    later = cells.ComputeCounters(calls=5, overruns=2, busy_s=1.5)
    assert later.since(cells.ComputeCounters(calls=3, overruns=2, busy_s=1.0)) == cells.ComputeCounters(2, 0, 0.5)


@pytest.mark.parametrize(("share", "value"), [(0.0, 1.0), (0.5, 2.5), (1.0, 4.0), (0.95, 3.85)])
def test_percentiles_interpolate(share: float, value: float) -> None:
    assert cells.percentile([4.0, 1.0, 3.0, 2.0], share) == pytest.approx(value)


def test_summary_compares_cells_of_equal_length_and_temperature() -> None:
    observations = [
        observation(USHAPE, ttft_s=1.0, gaps_s=(0.1,) * 4),
        observation(USHAPE, ttft_s=1.0, gaps_s=(0.2,) * 4, temperature=0.8),
        observation(HAT, ttft_s=0.44, gaps_s=(0.04,) * 4, num_drafted=8, num_rounds=4, num_accepted=4),
        observation(HAT, ttft_s=0.44, gaps_s=(0.12,) * 4, temperature=0.8),
    ]
    found = summary.summarise(observations, preset=presets.PAPER_WIFI, optima={("float16", 512): 0.4})
    assert found["tbt_over_ushape"] == pytest.approx({"Hat float16 512 T0": 0.4, "Hat float16 512 T0.8": 0.6})
    ratios = found["ttft_over_optimum"]
    assert isinstance(ratios, dict)
    assert ratios["Hat float16 512 T0"] == pytest.approx(1.1)
    assert found["hat_tbt_over_ushape_float16_t0.8"] == pytest.approx(0.6)
    assert "hat_ttft_over_usarathi" not in found
    asked = targets.targets(summary.Observations(observations), {("float16", 512): 0.4})
    verdicts = {t.label: t.verdict for t in asked}
    assert verdicts["Hat TBT / UShape T0 ≤ 0.45"] == "0.400 met"
    assert verdicts["Hat TBT / UShape T0.8 ≤ 0.5"] == "0.600 MISSED"
    lines = targets.headlines(asked)
    assert lines[0] == "2 of 3 targets met, 1 MISSED"
    assert lines[2].split("UShape", 1)[1].strip() == "T0 0.400 ≤ 0.45 · T0.8 0.600 ≤ 0.5 MISSED"


def test_hat_is_held_against_its_worst_cell() -> None:
    sarathi = plan.Variant(plan.StrategyName.USARATHI, "float16")
    observations = [
        observation(sarathi, ttft_s=0.5),
        observation(HAT, ttft_s=0.4),
        observation(sarathi, ttft_s=1.0, prompt_tokens=2048),
        observation(HAT, ttft_s=1.2, prompt_tokens=2048),
    ]
    optima = {("float16", 512): 0.4, ("float16", 2048): 1.0}
    worst = {t.name: t for t in targets.targets(summary.Observations(observations), optima)}
    assert worst["Hat TTFT / USarathi, worst cell"].measured == pytest.approx(1.2)
    assert not worst["Hat TTFT / USarathi, worst cell"].met
    line = targets.headlines(list(worst.values()))[1]
    assert line.endswith("float16 2048 1.200 ≤ 1.1 MISSED (worst of 2)")
