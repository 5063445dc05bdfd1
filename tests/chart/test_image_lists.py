"""What images install comes from pyproject.toml, and an unknown name is refused rather than left out."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.chart import charts


def requirements(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = charts.ROOT / "images" / "requirements.py"
    command = [sys.executable, str(script), str(charts.ROOT / "pyproject.toml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=charts.DEADLINE_S, check=False)


def test_the_operators_image_has_no_torch_and_the_runtimes_takes_it_from_an_earlier_layer() -> None:
    operator = requirements("--extra", "operator", "--only", "pydantic", "PyYAML").stdout
    runtime = requirements("--extra", "runtime", "--without", "torch").stdout
    assert "kopf" in operator and "pydantic" in operator
    assert not {"torch", "typer"} & {line.partition("=")[0].partition(">")[0] for line in operator.split()}
    assert "transformers" in runtime and "typer" in runtime and "torch==" not in runtime


@pytest.mark.parametrize("arguments", [("--extra", "gpu"), ("--only", "nothing"), ("--without", "nothing")])
def test_unknown_names_are_refused(arguments: tuple[str, str]) -> None:
    done = requirements(*arguments)
    assert done.returncode == 1
    assert " ".join(arguments) in done.stderr


def test_versions_that_the_dockerfile_picks_are_in_the_constraints() -> None:
    dockerfile = (charts.ROOT / "Dockerfile").read_text()
    _, _, rest = dockerfile.partition("grep -iE '^(")
    names = rest.partition(")==")[0].split("|")
    constraints = (charts.ROOT / "constraints.txt").read_text().lower()
    assert len(names) >= 5
    assert [name for name in [*names, "torch"] if f"\n{name}==" not in constraints] == []
