"""The rules of the operator's role are those that its code needs (`calls` reads them off it): none less, none more."""

from __future__ import annotations

import pathlib

import pytest
import yaml
from tests.chart import calls, charts

from milliner_operator import kinds

NAMESPACED = charts.OPERATOR_CHART / "ci" / "namespaced-values.yaml"
WATCHED = charts.OPERATOR_CHART / "ci" / "watched-values.yaml"

ANY_CHILD = (*kinds.CHILDREN, kinds.CERTIFICATE)
# Where clients of other clusters are used.
MODULES_ELSEWHERE = ("executor", "refusals", "remote", "rollouts", "sightings")


@pytest.mark.parametrize(("values", "kind"), [(None, "ClusterRole"), (WATCHED, "ClusterRole"), (NAMESPACED, "Role")])
def test_rules_are_what_the_code_calls(values: pathlib.Path | None, kind: str) -> None:
    roles = [each for each in charts.of_kind(charts.rendered(values), kind) if "operator" in each["metadata"]["name"]]
    asked = calls.by_calls(any_child=ANY_CHILD)
    needed = calls.together(asked, calls.by_watches(), calls.by_owner_references())
    assert roles
    for role in roles:
        assert given(role) == needed


def test_rules_for_pools_in_another_cluster_are_what_the_code_calls_there() -> None:
    """The operator watches nothing there: it lists at each pass."""
    text = (charts.ROOT / "manifests" / "edge" / "rights.yaml").read_text()
    needed = calls.by_calls(MODULES_ELSEWHERE, any_child=kinds.REMOTE_CHILDREN)
    assert given(charts.only(list(yaml.safe_load_all(text)), "Role")) == needed


@pytest.mark.parametrize(
    ("resource", "verb"),
    [(("", "pods"), "get"), (("", "pods"), "create"), (("", "secrets"), "update"), (("", "nodes"), "list")],
)
def test_what_no_code_calls_is_found_to_be_in_excess(resource: tuple[str, str], verb: str) -> None:
    asked = calls.together(calls.by_calls(any_child=ANY_CHILD), calls.by_watches())
    assert verb not in asked.get(resource, set())
    assert asked["", "pods"] == {"list"} and asked["", "secrets"] >= {"get", "list", "watch", "patch"}


def given(role: charts.Document) -> dict[tuple[str, str], set[str]]:
    """Verbs by group and resource."""
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_rights_end_at_the_watched_namespaces() -> None:
    for values, roles in ((WATCHED, 0), (NAMESPACED, 2)):
        documents = charts.rendered(values)
        assert not charts.of_kind(documents, "ClusterRoleBinding")
        bound = [each["metadata"]["namespace"] for each in charts.of_kind(documents, "RoleBinding")]
        assert bound == ["team-a", "team-b"]
        assert len(charts.of_kind(documents, "Role")) == roles
    assert not charts.of_kind(charts.rendered(NAMESPACED), "ClusterRole")


def test_no_rights_and_no_account_where_they_come_from_elsewhere() -> None:
    documents = charts.rendered(charts.OPERATOR_CHART / "ci" / "closed-values.yaml")
    assert not {"ServiceAccount", "Role", "ClusterRole", "RoleBinding"} & {each["kind"] for each in documents}
    pod = charts.only(documents, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "milliner-by-hand"


def test_users_roles_are_aggregated() -> None:
    roles = {each["metadata"]["name"]: each for each in charts.of_kind(charts.rendered(), "ClusterRole")}
    editor, viewer = roles["milliner-topology-editor"], roles["milliner-topology-viewer"]
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    assert {f"{prefix}view", f"{prefix}edit", f"{prefix}admin"} <= set(viewer["metadata"]["labels"])
    assert f"{prefix}view" not in editor["metadata"]["labels"]
    assert {verb for rule in viewer["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
