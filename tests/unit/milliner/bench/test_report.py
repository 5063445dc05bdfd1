from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import rich.console

from milliner.bench import report


def _report(**changes: object) -> report.Report:
    fields: dict[str, object] = {
        "command": "milliner bench --preset toy",
        "rows": [
            {"strategy": "Hat", "ttft_p50_s": 0.5, "requests": 3, "invalid_because": ""},
            {"strategy": "UShape", "ttft_p50_s": None, "requests": 0, "invalid_because": "overruns 3.0 %"},
        ],
        "summary": {"gain": 1.5, "ttft_over_optimum": {"Hat float16 512": 1.02}},
    }
    return report.Report(**{**fields, **changes})  # type: ignore[arg-type]


def test_json_has_exactly_the_agreed_fields(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    _report().write_json(path)
    document = json.loads(path.read_text())
    assert list(document) == ["schema", "command", "commit", "hardware", "rows", "summary"]
    assert document["schema"] == 1
    assert document["rows"][0]["ttft_p50_s"] == 0.5
    assert document["summary"]["ttft_over_optimum"] == {"Hat float16 512": 1.02}
    assert document["hardware"]["cores"] >= 1
    assert [p.name for p in tmp_path.iterdir()] == ["bench.json"]


def test_a_report_reads_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    written = _report()
    written.write_json(path)
    read = report.read_json(path)
    assert (read.rows, read.summary, read.commit) == (written.rows, written.summary, written.commit)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rows": [{"ttft_p50_s": float("nan")}]}, "rows[0].ttft_p50_s"),
        ({"rows": [{"gaps": [1, 2]}]}, "rows[0].gaps"),
        ({"summary": {"gain": float("inf")}}, "summary.gain"),
        ({"summary": {"gain": {"Hat": {"deep": 1}}}}, "summary.gain.Hat"),
    ],
)
def test_what_is_not_flat_or_finite_is_refused_by_name(changes: dict[str, object], field: str) -> None:
    with pytest.raises(report.ReportError) as caught:
        _report(**changes)
    assert caught.value.field == field


def test_unwritable_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "no" / "such" / "folder.json"
    with pytest.raises(report.ReportError) as caught:
        _report().write_json(path)
    assert caught.value.field == str(path)


@pytest.mark.parametrize("text", ["no json", "[]", '{"schema": 1}'])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(report.ReportError, match=r"x\.json"):
        report.read_json(path)


def test_table_shows_figures_missing_ones_and_invalid_rows() -> None:
    output = io.StringIO()
    columns = [report.Column("strategy", "strategy"), report.Column("ttft_p50_s", "TTFT ms", scale=1000, digits=1)]
    _report(columns=columns).print(rich.console.Console(file=output, width=120))
    text = output.getvalue()
    assert "500.0" in text
    assert "–" in text
    assert "overruns 3.0 %" in text
    assert "Hat float16 512" in text


def test_headlines_come_first_and_no_zero_is_negative() -> None:
    output = io.StringIO()
    report_ = _report(summary={"unexplained": -0.0001, "gain": -0.5}, headlines=["2 of 2 targets met"])
    report_.print(rich.console.Console(file=output, width=120))
    text = output.getvalue()
    assert text.startswith("2 of 2 targets met")
    assert "-0.000" not in text
    assert "-0.500" in text


def test_a_table_too_wide_for_the_console_goes_on_below_with_its_keys() -> None:
    output = io.StringIO()
    rows = [{"strategy": "UShape", **{f"figure_{i}": 1000 + i for i in range(12)}}]
    columns = [
        report.Column("strategy", "strategy", key=True),
        *(report.Column(f"figure_{i}", f"figure {i}") for i in range(12)),
    ]
    _report(rows=rows, columns=columns, summary={}).print(rich.console.Console(file=output, width=60))
    text = output.getvalue()
    assert text.count("UShape") == 3
    for i in range(12):
        assert f"figure {i} " in text
        assert str(1000 + i) in text
    assert max(map(len, text.split("milliner bench")[0].splitlines())) <= 60
