"""Charts rendered with `helm`, as parsed documents; a refused rendering as the message. Needs helm on the PATH."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPERATOR_CHART = ROOT / "charts" / "milliner"
CRD_CHART = ROOT / "charts" / "milliner-crds"
VALUE_SETS = (None, *sorted((OPERATOR_CHART / "ci").glob("*-values.yaml")))  # None: the chart's own values
NAMESPACE = "milliner-system"
DEADLINE_S = 60.0  # arbitrary; helm takes a fraction of a second

Document = dict[str, Any]


def helm(*arguments: str | pathlib.Path, deadline_s: float = DEADLINE_S) -> subprocess.CompletedProcess[str]:
    """Runs helm; the caller looks at its exit status."""
    program = shutil.which("helm")
    if program is None:
        pytest.skip("helm is not on the PATH: install Helm 3 or 4")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)


def rendered(
    values: pathlib.Path | None = None, *, sets: Mapping[str, str] | None = None, release: str = "milliner"
) -> list[Document]:
    """The documents of the operator's chart with a file of values and single ones (`--set-json`)."""
    done = helm("template", release, OPERATOR_CHART, "--namespace", NAMESPACE, *_options(values, sets or {}))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def refusal(sets: Mapping[str, str]) -> str:
    """What helm says of values (JSON by path) that the chart must refuse."""
    done = helm("template", "milliner", OPERATOR_CHART, "--namespace", NAMESPACE, *_options(None, sets))
    assert done.returncode != 0, f"accepted: {dict(sets)}"
    return done.stderr


def older_definition(folder: pathlib.Path, *, without: Sequence[str], of: pathlib.Path = CRD_CHART) -> pathlib.Path:
    """A copy of the definition's chart in `folder`, of an older version, as it was before a field of the spec came."""
    copy = pathlib.Path(shutil.copytree(of, folder))
    about = yaml.safe_load((copy / "Chart.yaml").read_text(encoding="utf-8"))
    (copy / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": "0.0.1"}), encoding="utf-8")
    [template] = (copy / "templates").glob("*.yaml")
    definition = yaml.safe_load(template.read_text(encoding="utf-8"))
    [version] = definition["spec"]["versions"]
    _forget(version["schema"]["openAPIV3Schema"]["properties"]["spec"], without)
    template.write_text(yaml.safe_dump(definition), encoding="utf-8")
    return copy


def of_kind(documents: Sequence[Document], kind: str) -> list[Document]:
    return [document for document in documents if document["kind"] == kind]


def only(documents: Sequence[Document], kind: str) -> Document:
    """The one document of a kind."""
    (document,) = of_kind(documents, kind)
    return document


def _forget(group: Document, path: Sequence[str]) -> None:
    """Takes a field out of a group's schema, and out of the defaults of the groups around it, which are in full."""
    default = group.get("default")
    for name in path[:-1]:
        default = (default or {}).get(name)
    if default:
        default.pop(path[-1], None)
    if len(path) == 1:
        del group["properties"][path[0]]
    else:
        _forget(group["properties"][path[0]], path[1:])


def _options(values: pathlib.Path | None, sets: Mapping[str, str]) -> list[str]:
    options = [] if values is None else ["--values", str(values)]
    return options + [part for path, value in sets.items() for part in ("--set-json", f"{path}={value}")]
