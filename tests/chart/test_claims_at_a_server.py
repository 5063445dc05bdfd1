"""What `helm install` says where another installation serves the namespaces already: helm asks the API server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from tests.chart import charts, kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("api_server")]

FIRST = f"{charts.NAMESPACE}/first-milliner"
MARKS = {"ConfigMap", "ClusterRoleBinding"}  # what of a release another one finds


def marks(**sets: str) -> list[charts.Document]:
    """Those of release `first`, not put there."""
    return [each for each in charts.rendered(sets=sets, release="first") if each["kind"] in MARKS]


@pytest.fixture(params=[{}, {"watchNamespaces": '["team-a"]'}], ids=["all", "one"])
def first(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The values of a first release, with its marks in the cluster."""
    documents = marks(**request.param)
    kubectl.apply(documents)
    yield request.param
    kubectl.run("delete", "-f", "-", "--ignore-not-found", documents=documents)


def installed(release: str, sets: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As an installation would go, with nothing made."""
    values = [part for path, value in sets.items() for part in ("--set-json", f"{path}={value}")]
    chart = (release, charts.OPERATOR_CHART, "--namespace", charts.NAMESPACE)
    return charts.helm("install", *chart, "--dry-run=server", *values)


def test_a_second_operator_of_the_same_namespaces_is_refused_in_words(first: dict[str, str]) -> None:
    refused = installed("second", first)
    place = "namespace team-a is served by the operator" if first else "the operator"
    assert refused.returncode != 0
    assert f"{place} {FIRST}" in refused.stderr and "already" in refused.stderr


def test_one_of_other_namespaces_is_welcome(first: dict[str, str]) -> None:
    done = installed("second", {"watchNamespaces": '["team-b"]'})
    assert done.returncode == 0, done.stderr
