"""What the demo and `--explain` show of an answer's figures."""

from __future__ import annotations

import io

import rich.console

from milliner.cli import demo_view, figures
from milliner.telemetry.phases import Phase
from milliner.telemetry.summary import RequestSummary


def summary(*, ttft_s: float, tpot_s: float, counters: dict[str, int]) -> RequestSummary:
    return RequestSummary(
        request_id="r",
        operation="text_completion",
        model="demo",
        strategy="Hat",
        prompt_tokens=512,
        generated_tokens=64,
        finish_reason="length",
        error_type=None,
        duration_s=ttft_s + 63 * tpot_s,
        ttft_s=ttft_s,
        tbt_s=(),
        tpot_s=tpot_s,
        phases_s={Phase.NETWORK: 1.0},
        hidden_phases_s={},
        counters=counters,
        rounds=(),
        outside_rounds=(),
    )


BASELINE = summary(ttft_s=0.6, tpot_s=0.06, counters={"bytes_up": 64_000, "bytes_down": 32_000})
DRAFTED = {"num_rounds": 16, "num_drafted": 40, "num_accepted": 32, "num_drafted_rounds": 10, "num_hidden_rounds": 7}
HAT = summary(ttft_s=0.5, tpot_s=0.02, counters=DRAFTED)


def printed(results: list[demo_view.Result], *, overrun_share: float = 0.0) -> str:
    out = rich.console.Console(file=io.StringIO(), width=110)
    demo_view.print_results(out, results, num_tokens=64, overrun_share=overrun_share, time_scale=2.0)
    assert isinstance(out.file, io.StringIO)
    return " ".join(out.file.getvalue().split())


def test_figures_stand_beside_each_other_with_the_gain() -> None:
    shown = printed([demo_view.Result("UShape", BASELINE, 64), demo_view.Result("Hat", HAT, 64)])
    assert "time to first token 600 ms 500 ms 1.20 × as fast" in shown
    assert "time per further token 60 ms 20 ms 3.00 × as fast" in shown
    assert "tokens per verification 1 3.00" in shown
    assert "rounds whose drafting was hidden – 70%" in shown
    assert "sent up, kB per token 1.0 0.0" in shown
    assert "64 of 64 64 of 64 ✓" in shown
    assert "too slow" not in shown


def test_a_difference_and_a_slow_machine_are_said() -> None:
    results = [demo_view.Result("UShape", BASELINE, 64), demo_view.Result("Hat", HAT, 12)]
    shown = printed(results, overrun_share=0.3)
    assert "64 of 64 12 of 64" in shown
    assert "✓" not in shown
    assert "too slow for 30% of the emulated calls" in shown
    assert "--time-scale 6" in shown
    assert results[1].to_json()["equal_tokens"] == 12


def test_the_line_of_figures_leaves_out_what_does_not_exist() -> None:
    line = figures.line(HAT)
    assert "512 prompt + 64 tokens · TTFT 500 ms · 20.0 ms per token · acceptance length 3.00" in line
    assert "70% of drafting rounds hidden" in line
    assert "kB" not in line
    assert "acceptance" not in figures.line(BASELINE)
    assert "1.0 kB per token up · 0.5 kB per token down" in figures.line(BASELINE)


def test_panels_hold_the_end_of_a_long_answer() -> None:
    console = rich.console.Console(file=io.StringIO(), width=100)
    view = demo_view.SideBySide(("UShape", "Hat"), console=console)
    view.start(0)
    view.update(0, "\n".join(f"line {index}" for index in range(40)), num_tokens=40)
    view.finish(1, HAT)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "line 39" in shown
    assert "line 0 " not in shown
    assert "40 tokens in" in shown
    assert "64 tokens · 1.76 s · first 500 ms" in shown
