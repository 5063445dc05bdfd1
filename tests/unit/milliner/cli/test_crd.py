"""`milliner crd`: prints the definition or writes it, and says in one sentence where it cannot."""

from __future__ import annotations

import pathlib

import pytest
import typer
import typer.testing

from milliner.cli import crd
from milliner.contract.crd import definition
from milliner.core import errors

app = typer.Typer()
app.command()(crd.crd)


def test_it_prints_the_definition_and_nothing_else() -> None:
    result = typer.testing.CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert result.stdout == definition.to_yaml()


def test_it_writes_the_file_that_is_named(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "crd.yaml"
    result = typer.testing.CliRunner().invoke(app, ["--out", str(file)])
    assert (result.exit_code, result.stdout) == (0, "")
    assert file.read_text(encoding="utf-8") == definition.to_yaml()


def test_a_file_that_cannot_be_written_is_wrong_use(tmp_path: pathlib.Path) -> None:
    with pytest.raises(errors.ConfigError, match="cannot be written: No such file or directory"):
        crd.crd(out=tmp_path / "absent" / "crd.yaml")
