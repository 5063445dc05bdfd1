"""What the subcommands of `milliner bench` share: the JSON report, lists of numbers and names, the command as typed."""

from __future__ import annotations

import pathlib
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, TypeVar

import rich.console
import typer

from milliner.bench import plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from milliner.bench import report

T = TypeVar("T")


def _writable(path: pathlib.Path | None) -> pathlib.Path | None:
    """Refuses what could not be written before anything is measured."""
    if path is not None:
        from milliner.bench import report

        report.check_writable(path)
    return path


JsonFile = Annotated[
    pathlib.Path | None,
    typer.Option("--json", metavar="FILE", help="Write the report there as JSON too.", callback=_writable),
]


def values(option: str, text: str, read: Callable[[str], T]) -> list[T]:
    """The comma-separated values of an option. Raises `plan.PlanError` naming the one that cannot be read."""
    found: list[T] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            found.append(read(part))
        except (KeyError, ValueError):
            known = f": use {', '.join(plan.StrategyName)}" if option == "--strategies" else ": a number is needed"
            raise plan.PlanError(f"cannot read {part!r}{known}", field=option) from None
    return found


def command_line() -> str:
    """The command line as it was typed, for the report."""
    return shlex.join(["milliner", *sys.argv[1:]])


def deliver(result: report.Report, json_file: pathlib.Path | None) -> None:
    """Prints the report, and writes it where that is asked for."""
    result.print(rich.console.Console())
    if json_file is not None:
        result.write_json(json_file)
