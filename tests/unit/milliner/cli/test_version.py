"""`milliner --version`, without a command and before anything else of the line is looked at."""

from __future__ import annotations

import importlib.metadata

import pytest
import typer.testing

from milliner.cli import main


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "no-such-command"]])
def test_version(arguments: list[str]) -> None:
    printed = typer.testing.CliRunner().invoke(main.app, arguments)
    assert (printed.exit_code, printed.stdout) == (0, f"milliner {importlib.metadata.version('milliner')}\n")
