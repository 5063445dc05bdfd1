"""`milliner doctor`: looks at this machine and says what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import rich.console
import rich.table
import rich.text
import typer

if TYPE_CHECKING:
    from milliner.local import checks

_STYLES = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "bold red")}


def doctor(
    topology: Annotated[
        pathlib.Path | None,
        typer.Option("--topology", "-f", metavar="FILE", help="Check this topology and its model folders too."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check this machine: Python, packages, torch, memory, cores, ports; say what to do.

    Exit status 1 if something keeps Milliner from working.

    Examples:

      [bold]milliner doctor[/bold]

      [bold]milliner doctor -f topology.yaml[/bold]
    """
    from milliner.local import checks, state_files

    folder = state_files.directory(os.environ)
    wanted: dict[str, Callable[[], checks.Finding]] = {
        "python": checks.check_python,
        "packages": checks.check_packages,
        "torch": checks.check_torch,
        "memory": checks.check_memory,
        "cores": checks.check_cores,
        "port": checks.check_port,
        "state folder": lambda: checks.check_state_folder(folder),
        "demo model": checks.check_demo_model,
    }
    if topology is not None:
        wanted["topology"] = lambda: checks.check_topology(topology)
    findings = checks.run_all(wanted)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    if any(finding.level is checks.Level.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _print(findings: list[checks.Finding]) -> None:
    table = rich.table.Table(box=None, show_header=False, pad_edge=False)
    for column in ("sign", "subject", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        sign, style = _STYLES[finding.level.value]
        remedy = f"  → {finding.remedy}" if finding.remedy else ""
        found = rich.text.Text.assemble(finding.found, (remedy, "dim"))  # not markup: what was found may hold brackets
        table.add_row(rich.text.Text(sign, style=style), finding.subject, found)
    rich.console.Console().print(table)
