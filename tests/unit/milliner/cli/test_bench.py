"""`milliner bench` as a user types it: what it writes, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer.testing

from milliner.bench import acceptance, engine, paper_wifi, paper_wifi_virtual, refine
from milliner.cli import bench
from milliner.core import errors


def _run(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(bench.app, list(arguments))


def test_a_modelled_run_prints_a_table_and_writes_the_agreed_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    choice = [
        "--strategies",
        "ushape,Hat",
        "--codecs",
        "int8",
        "--prompt-tokens",
        "128",
        "--new-tokens",
        "8",
        "-n",
        "1",
    ]
    result = _run("--modelled", *choice, "--json", str(path))
    assert result.exit_code == 0, result.output
    assert "TTFT" in result.output
    document = json.loads(path.read_text())
    assert list(document) == ["schema", "command", "commit", "hardware", "rows", "summary"]
    assert [(row["strategy"], row["codec"], row["temperature"]) for row in document["rows"]] == [
        ("UShape", "int8", 0.0),
        ("Hat", "int8", 0.0),
    ]


@pytest.mark.parametrize("arguments", [["--quick"], ["--virtual-time"], ["engine"], ["acceptance"], ["refine"]])
def test_a_report_that_could_not_be_written_is_refused_before_anything_is_measured(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    for module in (paper_wifi, paper_wifi_virtual, acceptance, engine, refine):
        monkeypatch.setattr(module, "run", measure)
    for path in (tmp_path / "missing" / "report.json", tmp_path):
        result = _run(*arguments, "--json", str(path))
        assert isinstance(result.exception, errors.ConfigError), result.exception
        assert result.exception.field == str(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--strategies", "Hut"], "--strategies"),
        (["--prompt-tokens", "12,many"], "--prompt-tokens"),
        (["--codecs", "int3"], "--codecs"),
        (["--requests", "0"], "--requests"),
        (["--text", "words.txt"], "--text"),
        (["--preset", "dp"], "--preset"),
        (["--preset", "pd", "--virtual-time"], "--virtual-time"),
        (["--preset", "pd", "--quick", "--strategies", "Hat"], "--strategies"),
        (["--preset", "pd", "--prompt-tokens", "512"], "--prompt-tokens"),
        (["--model", "somewhere"], "--adapter"),
        (["--model", "somewhere", "--adapter", "there"], "--text"),
        (["--modelled", "--agreement", "1.5"], "--agreement"),
        (["--modelled", "--preset", "paper-wire"], "--preset"),
        (["acceptance", "--model", "somewhere"], "--adapter"),
        (["refine", "--model", "somewhere"], "--text"),
        (["refine", "--keep", "30,half"], "--keep"),
    ],
)
def test_wrong_use_names_the_option(arguments: list[str], field: str) -> None:
    result = _run(*arguments)
    assert isinstance(result.exception, errors.ConfigError), result.output
    assert result.exception.field == field
