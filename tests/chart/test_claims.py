"""What an installation claims in the cluster is what its operator watches, under the name that the operator knows."""

from __future__ import annotations

import pathlib

import pytest
from tests.chart import charts

from milliner_operator import claims, settings

WATCHED = charts.OPERATOR_CHART / "ci" / "watched-values.yaml"
NAMESPACED = charts.OPERATOR_CHART / "ci" / "namespaced-values.yaml"


def claimed(values: pathlib.Path | None, sets: dict[str, str] | None = None) -> tuple[settings.Settings, set[str]]:
    """The operator's settings, and the namespaces that it claims ('': all) as it reads them."""
    documents = charts.rendered(values, sets=sets)
    container = charts.only(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    chosen = settings.read({each["name"]: each["value"] for each in container["env"]})
    found = set()
    for document in charts.of_kind(documents, "ConfigMap"):
        document["metadata"]["creationTimestamp"] = "2026-11-21T12:00:00Z"
        claim = claims.read(document)
        assert claim is not None and claim.owner == chosen.installation
        found.add(claim.namespace)
    return chosen, found


@pytest.mark.parametrize("values", [WATCHED, NAMESPACED])
def test_one_claim_in_each_watched_namespace(values: pathlib.Path) -> None:
    chosen, found = claimed(values)
    assert chosen.installation == f"{charts.NAMESPACE}/milliner"
    assert found == set(chosen.watch_namespaces) == {"team-a", "team-b"}


def test_one_claim_on_all_which_the_next_installation_finds() -> None:
    chosen, found = claimed(None)
    assert (found, chosen.watch_namespaces) == ({""}, ())
    binding = charts.only(charts.rendered(), "ClusterRoleBinding")
    assert binding["metadata"]["annotations"]["milliner.dev/serves-all"] == chosen.installation


def test_a_namespaced_operator_claims_its_own_namespace() -> None:
    assert claimed(None, {"rbac.namespaced": "true"})[1] == {charts.NAMESPACE}


def test_the_claim_of_a_release_has_the_name_of_its_operator() -> None:
    chosen, _ = claimed(charts.OPERATOR_CHART / "ci" / "pinned-values.yaml")
    assert chosen.installation == f"{charts.NAMESPACE}/hats"


def test_a_claim_on_all_does_not_have_the_name_of_one_on_its_namespace() -> None:
    (claim,) = charts.of_kind(charts.rendered(), "ConfigMap")
    assert claim["metadata"]["name"] != claims.NAME
