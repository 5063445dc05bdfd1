"""Ctrl-C ends every command in silence with status 130, even while the command line is still being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# Sends SIGINT the moment that the named module is imported: later than any person can, earlier than most.
# A shell starts background jobs with SIGINT ignored, and children inherit that: in a terminal it is as here.
CODE = """
import importlib.abc, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
        return None
sys.meta_path.insert(0, Interrupt())
sys.argv = ["milliner", *{arguments!r}]
from milliner.cli import entry
entry.main()
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("milliner.cli.main", ["--help"]),
        ("typer", ["--help"]),
        ("milliner.local.launches", ["up", "-f", "absent.yaml"]),
        ("milliner.cli.target", ["generate", "hello", "--url", "http://127.0.0.1:9"]),
        ("milliner.local.checks", ["doctor"]),
    ],
)
def test_an_interruption_is_silent(module: str, arguments: list[str]) -> None:
    code = CODE.format(module=module, arguments=arguments)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr.strip()) == (128 + signal.SIGINT, "")
