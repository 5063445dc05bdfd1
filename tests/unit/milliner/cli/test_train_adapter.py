"""`milliner train-adapter` on the command line: it trains, says how well, and names wrong options."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import torch
import typer
import typer.testing
from tests.unit.milliner.model import drafter_models

from milliner.cli import train_adapter
from milliner.core import errors
from milliner.model import drafter_file

app = typer.Typer()
app.command()(train_adapter.train_adapter)
runner = typer.testing.CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("train_adapter")
    drafter_models.write_llama(made / "model")
    drafter_models.write_text(made / "text.txt")
    return made


def options(folder: pathlib.Path, out: pathlib.Path, *more: str) -> list[str]:
    plain = ["--model", str(folder / "model"), "--split-layer", "1", "--text", str(folder / "text.txt")]
    return [*plain, "--out", str(out), "--window-tokens", "32", "--device", "cpu", "--steps", "2", *more]


def test_medusa_heads_are_trained_and_their_figures_printed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result = runner.invoke(app, options(folder, tmp_path, "--kind", "medusa", "--heads", "3"))
    assert result.exception is None
    assert "acceptance length" in result.stdout
    assert f"strategy: {{type: UShape, uShape: {{heads: {{source: {tmp_path}}}}}}}" in result.stdout
    assert "measuring on held-out text" in result.stderr  # no terminal, no bar: lines of a log
    assert drafter_file.read_card(tmp_path).sizes["num_heads"] == 3


@pytest.mark.parametrize(("option", "choices"), [("--form", "Layer, Attention"), ("--kind", "adapter, medusa")])
def test_unknown_names_list_the_choices(
    folder: pathlib.Path, tmp_path: pathlib.Path, option: str, choices: str
) -> None:
    result = runner.invoke(app, options(folder, tmp_path, option, "nonsense"))
    assert isinstance(result.exception, errors.ConfigError)
    assert result.exception.field == option
    assert choices in result.exception.message


def test_help_does_not_import_torch() -> None:
    code = "import sys, milliner.cli.train_adapter; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
