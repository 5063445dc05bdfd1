"""`milliner slice` end to end on a tiny model: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import typer.testing
from tests.numerics import tiny_models

from milliner.cli import slice as cli_slice
from milliner.core import errors
from milliner.model import checkpoint

app = typer.Typer()
app.command()(cli_slice.slice_)


def test_json_says_what_was_written(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--layers", ":1", "--out", str(tmp_path / "device")]
    result = typer.testing.CliRunner().invoke(app, [*options, "--embedding", "--lm-head", "--json"])
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    assert written["spec"] == {"start": 0, "end": 1, "embedding": True, "lm_head": True}
    held = checkpoint.Checkpoint.open(tmp_path / "device").held
    assert held is not None
    assert held.parent_digest == written["model_digest"]


def test_text_says_what_was_written(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path / "model")
    options = ["--model", str(tmp_path / "model"), "--layers", "1:", "--out", str(tmp_path / "cloud")]
    result = typer.testing.CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    assert "layers [1, 3), 18 of 30 tensors" in result.stdout


def test_defects_reach_the_caller_as_expected_errors(tmp_path: Path) -> None:
    options = ["--model", str(tmp_path / "absent"), "--layers", "0:1", "--out", str(tmp_path / "out")]
    result = typer.testing.CliRunner().invoke(app, options)
    assert isinstance(result.exception, errors.CheckpointError)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("text", "expected"), [("0:2", (0, 2)), (":2", (0, 2)), ("2:", (2, 8)), (":", (0, 8))])
def test_bounds(text: str, expected: tuple[int, int]) -> None:
    assert cli_slice.bounds(text, num_layers=8) == expected


@pytest.mark.parametrize("text", ["", "2", "a:b", "-1:2", "0:2:3"])
def test_bounds_of_another_form(text: str) -> None:
    with pytest.raises(errors.SplitOutsideModel, match="A:B") as refused:
        cli_slice.bounds(text, num_layers=8)
    assert refused.value.field == "--layers"
