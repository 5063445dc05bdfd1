"""What preset pd allows, and that its bench runs with real processes."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pytest
import rich.console

from milliner.bench import cells, paper_wifi, pd, pd_preset, pd_report, report, time_scale
from milliner.contract import kinds

PRESET = pd_preset.PDPreset()


def test_the_optimum_of_cloud_tokens_bridges_the_devices_prefill() -> None:
    # (512 x 2 ms + 40 ms - 20 ms - 24 ms - 512 x 0.21 ms) / (50 ms - 2 ms)
    assert PRESET.cloud_tokens_optimum(512) == pytest.approx(0.91248 / 0.048)
    assert PRESET.cloud_tokens_optimum(1) == 1.0
    assert PRESET.cloud_tokens_optimum(2048, kept=0.5) < 0.5 * PRESET.cloud_tokens_optimum(2048)


@pytest.mark.parametrize(("prompt", "answer", "gain"), [(512, 1024, 19.8), (2048, 1024, 5.5)])
def test_a_saturated_cloud_gains_what_the_constants_allow(prompt: int, answer: int, gain: float) -> None:
    few = PRESET.requests_per_s(prompt_tokens=prompt, cloud_tokens=PRESET.cloud_tokens_optimum(prompt))
    all_of_it = PRESET.requests_per_s(prompt_tokens=prompt, cloud_tokens=answer)
    assert few / all_of_it == pytest.approx(gain, rel=0.03)


def test_a_slower_world_keeps_its_ratios() -> None:
    slow = PRESET.scaled(3.0)
    assert slow.cloud_tokens_optimum(2048) == pytest.approx(PRESET.cloud_tokens_optimum(2048))
    assert slow.requests_per_s(prompt_tokens=512, cloud_tokens=20) == pytest.approx(
        PRESET.requests_per_s(prompt_tokens=512, cloud_tokens=20) / 3.0
    )


def test_a_cell_whose_compute_was_slower_than_modelled_says_nothing() -> None:
    before = cells.ComputeCounters(calls=50, overruns=50), cells.ComputeCounters(calls=10)
    after = cells.ComputeCounters(calls=150, overruns=51), cells.ComputeCounters(calls=110, overruns=2)
    found = pd_report.overruns(before, after)
    assert found["compute_overrun_share"] == pytest.approx(0.02)
    assert found["invalid_because"] == (
        "real compute took longer than modelled in 2.0% of the cloud's calls: raise --time-scale"
    )


def test_the_bench_measures_both_tiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd, "QUICK_CELLS", ((128, 24),))
    monkeypatch.setattr(pd, "_TRIED_TOKENS", 8)
    monkeypatch.setattr(time_scale, "FACTORS", (0.5, 0.5))  # tried once; whatever comes of it
    found = paper_wifi.demo_inputs()
    result = pd.run(
        model=found.files.model,
        texts=found.texts,
        requests=1,
        quick=True,
        time_scale=None,
        command="test",
        console=rich.console.Console(file=io.StringIO(), width=100),
    )
    whole, refined = result.rows
    assert (whole["refinement"], refined["refinement"]) == ("Disabled", "Auto")
    assert whole["kept_percent"] == 100.0
    assert 30.0 <= float(refined["kept_percent"] or 0.0) <= 100.0
    for row in (whole, refined):
        assert row["prompt_tokens"] == 128
        assert 1 <= int(row["cloud_tokens"] or 0) <= 24
        assert float(row["requests_per_s"] or 0.0) > 0.0
        assert bool(row["invalid_because"]) == (float(row["compute_overrun_share"] or 0.0) > cells.OVERRUN_LIMIT)
    assert result.summary["invalid_rows"] in (0, 2)
    assert result.summary["time_scale"] == 0.5
    assert float(whole["tpot_objective_s"] or 0.0) == pytest.approx(0.025)
    assert set(result.summary) >= {"ttft_over_device_only", "share_within_tpot", "throughput_over_cloud_only"}


def rows_of(prompt_tokens: int, answer_tokens: int, *, gap_s: float, requests_per_s: float) -> list[report.Row]:
    """A cell whose device takes twenty times as long to its first token, with every token `gap_s` after the last."""

    def seen(cloud_tokens: int, kept: float) -> pd_report.Seen:
        return pd_report.Seen(tuple(0.15 + gap_s * index for index in range(answer_tokens)), cloud_tokens, kept)

    alone = [pd_report.Seen((3.0, 3.04), 0, 1.0)]
    cell = pd_report.Cell(PRESET, prompt_tokens, answer_tokens, alone, cloud_only_per_s=0.25)
    clean: report.Row = {"invalid_because": "", "compute_overrun_share": 0.0}
    return [
        {**cell.row(kinds.RefinementMode.OFF, [seen(21, 1.0)] * 3, requests_per_s), **clean},
        {**cell.row(kinds.RefinementMode.AUTO, [seen(9, 0.3)] * 3, requests_per_s), **clean},
    ]


def test_every_target_stands_beside_what_was_measured() -> None:
    rows = [
        *rows_of(512, 256, gap_s=0.046, requests_per_s=5.6),
        *rows_of(512, 1024, gap_s=0.051, requests_per_s=2.9),
    ]
    built = pd_report.build(rows, time_scale=1.0, title="pd", command="test")
    verdicts = built.summary["targets"]
    assert isinstance(verdicts, Mapping)
    missed = [label for label, verdict in verdicts.items() if "MISSED" in str(verdict)]
    assert missed == [
        "512/256 refined requests/s / bound ≥ 0.85",
        "512/1024 answers within TPOT ≥ 0.99",
        "512/1024 requests/s / bound ≥ 0.85",
        "512/1024 refined answers within TPOT ≥ 0.99",
        "512/1024 refined requests/s / bound ≥ 0.85",
        "512/1024 requests/s / CloudOnly ≥ 12",
    ]
    assert verdicts["512/256 TTFT / DeviceOnly ≤ 0.2"] == "0.050 met"
    assert verdicts["512/256 N off its optimum ≤ 0.15"] == "0.105 met"
    assert verdicts["512/256 N refined / whole ≤ 1"] == "0.429 met"
    assert built.headlines[0] == f"{len(verdicts) - 6} of {len(verdicts)} targets met, 6 MISSED"
