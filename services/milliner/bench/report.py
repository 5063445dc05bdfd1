"""The one report that every bench writes: flat rows and a summary, as JSON and as a table.

The JSON is ``{"schema": 1, "command", "commit", "hardware", "rows", "summary"}``. Rows are flat (name → text, number,
truth or null); a summary value may be one such mapping deep. Numbers are finite: a missing figure is null, never NaN.
Imports neither torch nor any bench; every bench of `milliner bench` hands its rows to `Report`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import rich.box
import rich.console
import rich.markup
import rich.table

from milliner.bench import provenance
from milliner.core import errors

SCHEMA = 1

_ANY_WIDTH = 10_000  # columns; wider than any table, so that its own width can be measured

Scalar = str | int | float | bool | None
Row = Mapping[str, Scalar]
Summary = Mapping[str, "Scalar | Mapping[str, Scalar]"]


class ReportError(errors.ConfigError):
    """A report that cannot be written or read; the field names the row's field or the file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """How a field of the rows is shown: its heading, and its value times `scale` with `digits` decimals.

    Where a table is wider than the console its columns go to several tables; `key` columns stand in each of them.
    """

    field: str
    heading: str
    scale: float = 1.0
    digits: int = 2
    key: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one bench measured. `columns` empty: the table shows every field of the rows.

    A row whose field `invalid_because` is neither missing nor empty is shown dimmed, with the reason below the table.
    Raises `ReportError` for a row that is not flat or holds a number that is not finite.
    """

    command: str
    rows: Sequence[Row]
    summary: Summary
    title: str = ""
    headlines: Sequence[str] = ()  # printed first: what the run is for, in lines; not in the JSON
    columns: Sequence[Column] = ()
    not_printed: Sequence[str] = ()  # summary entries that the table's columns show already
    commit: str = dataclasses.field(default_factory=provenance.commit)
    hardware: Row = dataclasses.field(default_factory=provenance.hardware)

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            for name, value in row.items():
                _check_scalar(value, where=f"rows[{index}].{name}")
        for name, entry in self.summary.items():
            if isinstance(entry, Mapping):
                for key, inner in entry.items():
                    _check_scalar(inner, where=f"summary.{name}.{key}")
            else:
                _check_scalar(entry, where=f"summary.{name}")

    def to_json(self) -> str:
        """The report as JSON text, indented, ending in a newline."""
        document = {
            "schema": SCHEMA,
            "command": self.command,
            "commit": self.commit,
            "hardware": dict(self.hardware),
            "rows": [dict(row) for row in self.rows],
            "summary": {k: dict(v) if isinstance(v, Mapping) else v for k, v in self.summary.items()},
        }
        return json.dumps(document, indent=2, allow_nan=False) + "\n"

    def write_json(self, path: Path) -> None:
        """Writes the JSON whole or not at all (a file beside it, then a rename). Raises `ReportError`."""
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            beside.write_text(self.to_json(), encoding="utf-8")
            beside.replace(path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ReportError(f"cannot be written: {error.strerror}", field=str(path)) from error

    def print(self, console: rich.console.Console | None = None) -> None:
        """The headlines, the table of rows, then the summary, on `console` (default: standard output)."""
        console = console or rich.console.Console()
        if self.title and (self.rows or self.headlines):
            console.print(f"[bold]{rich.markup.escape(self.title)}")
        for line in self.headlines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        if self.rows:
            for table in _row_tables(self, console):
                console.print(table)
        for row in self.rows:
            if reason := row.get("invalid_because"):
                named = " ".join(str(value) for value in list(row.values())[:4])
                console.print(f"[red]invalid[/red] [dim]{rich.markup.escape(f'{named}: {reason}')}")
        if shown := {name: value for name, value in self.summary.items() if name not in self.not_printed}:
            console.print(_summary_table(shown))
        console.print(
            f"[dim]{rich.markup.escape(self.command)} · commit {self.commit} · {_hardware_line(self.hardware)}"
        )


def check_writable(path: Path) -> None:
    """Raises `ReportError` where `Report.write_json` could not write: known before hours of measuring, not after."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.touch()
        beside.unlink()
    except OSError as error:
        raise ReportError(f"cannot be written: {error.strerror}", field=str(path)) from error
    if path.is_dir():
        raise ReportError("is a folder: name a file", field=str(path))


def read_json(path: Path) -> Report:
    """A report that `write_json` wrote. Raises `ReportError` naming the file and what is wrong with it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"cannot be read: {error.strerror}", field=str(path)) from error
    except ValueError as error:
        raise ReportError(f"is not JSON: {error}", field=str(path)) from error
    names = ("schema", "command", "commit", "hardware", "rows", "summary")
    if not isinstance(document, dict) or set(document) != set(names):
        raise ReportError(f"is not a bench report: it needs exactly the fields {', '.join(names)}", field=str(path))
    if document.pop("schema") != SCHEMA:
        raise ReportError(f"is of another schema: this version reads schema {SCHEMA}", field=str(path))
    return Report(**document)


def _check_scalar(value: object, *, where: str) -> None:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ReportError(f"is a {type(value).__name__}: text, a number, true, false or null is needed", field=where)
    if isinstance(value, float) and not math.isfinite(value):
        raise ReportError(f"is {value}: a figure that does not exist is null", field=where)


def _row_tables(report: Report, console: rich.console.Console) -> list[rich.table.Table]:
    """One table, or several with the key columns in each, so that none is wider than the console."""
    names = dict.fromkeys(name for row in report.rows for name in row)
    columns = report.columns or [Column(name, name.replace("_", " ")) for name in names if name != "invalid_because"]
    keys = [column for column in columns if column.key]
    groups: list[list[Column]] = [keys[:]]
    unbounded = console.options.update_width(_ANY_WIDTH)
    for column in columns:
        if column.key:
            continue
        wider = _rows_table(report, [*groups[-1], column])
        if len(groups[-1]) > len(keys) and console.measure(wider, options=unbounded).maximum > console.width:
            groups.append(keys[:])
        groups[-1].append(column)
    return [_rows_table(report, group) for group in groups]


def _rows_table(report: Report, columns: Sequence[Column]) -> rich.table.Table:
    table = rich.table.Table(header_style="bold", box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        numeric = all(isinstance(row.get(column.field), (int, float, type(None))) for row in report.rows)
        table.add_column(column.heading, justify="right" if numeric else "left", no_wrap=True)
    for row in report.rows:
        table.add_row(
            *(_cell(row.get(c.field), c) for c in columns), style="dim strike" if row.get("invalid_because") else None
        )
    return table


def _summary_table(summary: Summary) -> rich.table.Table:
    table = rich.table.Table(title="Summary", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="right")
    plain = Column("", "", digits=3)
    for name, value in summary.items():
        if isinstance(value, Mapping):
            for key, inner in value.items():
                table.add_row(rich.markup.escape(f"{name} · {key}"), _cell(inner, plain))
        else:
            table.add_row(rich.markup.escape(name), _cell(value, plain))
    return table


def _cell(value: Scalar, column: Column) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and column.scale == 1.0:
        return str(value)
    if isinstance(value, (int, float)):
        shown = f"{value * column.scale:.{column.digits}f}"
        return shown if float(shown) else shown.removeprefix("-")  # no "-0.000" of rounding errors
    return rich.markup.escape(value)


def _hardware_line(hardware: Row) -> str:
    return " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in hardware.items() if value is not None)
