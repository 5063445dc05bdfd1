"""Prints, one a line, what `pip install -r` is to install for an image: extras and single packages of pyproject.toml.

    python requirements.py pyproject.toml --extra operator --only pydantic PyYAML

`--only` takes packages out of the base dependencies (without it, all of them); `--without` leaves packages out, which
an earlier layer holds. A name that pyproject.toml does not have is an error. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import tomllib
from collections.abc import Sequence


def requirements(
    project: dict[str, object], *, extras: Sequence[str], only: Sequence[str] | None, without: Sequence[str]
) -> list[str]:
    """The requirement lines of `project` (the table of pyproject.toml). Raises `SystemExit` naming what is unknown."""
    base, optional = project["dependencies"], project["optional-dependencies"]
    assert isinstance(base, list) and isinstance(optional, dict)
    for extra in extras:
        if extra not in optional:
            raise SystemExit(f"--extra {extra}: pyproject.toml has {', '.join(sorted(optional))}")
    lines = list(base if only is None else _picked(base, only, option="--only"))
    for extra in extras:
        lines += optional[extra]
    left_out = _picked(lines, without, option="--without")
    return [line for line in lines if line not in left_out]


def package(requirement: str) -> str:
    """`torch` of `torch==2.13.0`, as package indexes compare names (lower case, one kind of dash)."""
    name = re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def _picked(lines: Sequence[str], names: Sequence[str], *, option: str) -> list[str]:
    by_name = {package(line): line for line in lines}
    for name in names:
        if package(name) not in by_name:
            raise SystemExit(f"{option} {name}: not among {', '.join(sorted(by_name))}")
    return [by_name[package(name)] for name in names]


def main() -> None:
    """Reads the command line and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pyproject", type=pathlib.Path)
    parser.add_argument("--extra", action="append", default=[])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--without", nargs="+", default=[])
    arguments = parser.parse_args()
    project = tomllib.loads(arguments.pyproject.read_text())["project"]
    for line in requirements(project, extras=arguments.extra, only=arguments.only, without=arguments.without):
        print(line)


if __name__ == "__main__":
    main()
