"""What `milliner up` says, and what it keeps back with --quiet."""

from __future__ import annotations

import io

import pytest
import rich.console

from milliner.local import console, state_files, supervisor


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_keeps_back_all_but_failures(quiet: bool) -> None:
    out = io.StringIO()
    shown = console.Console(rich.console.Console(file=out, width=200), names=("cloud-0",), quiet=quiet)
    shown.note("the link is emulated")
    shown.on_log("cloud-0", "a line of the log")
    shown.on_state("cloud-0", supervisor.State.WAITING, "the cloud does not answer")
    shown.on_state("cloud-0", supervisor.State.FAILED, "no such folder")
    text = out.getvalue()
    assert "failed: no such folder" in text
    for line in ("note: the link is emulated", "a line of the log", "the cloud does not answer"):
        assert (line in text) is not quiet


def test_quiet_says_no_endpoints() -> None:
    out = io.StringIO()
    running = state_files.RunningTopology(
        name="chat", strategy="Hat", model="demo", runner_pid=1, runner_started_s=0.0, devices=(), clouds=()
    )
    console.Console(rich.console.Console(file=out, width=200), names=(), quiet=True).announce(running)
    assert out.getvalue() == ""
