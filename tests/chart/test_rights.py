"""The rules of the operator's role are those that its code needs: its table of kinds, and what it does with each."""

from __future__ import annotations

import pathlib

import pytest
import yaml
from tests.chart import charts

from milliner_operator import kinds

NAMESPACED = charts.OPERATOR_CHART / "ci" / "namespaced-values.yaml"
WATCHED = charts.OPERATOR_CHART / "ci" / "watched-values.yaml"

CHILD_VERBS = {"get", "list", "watch", "create", "patch", "delete"}  # server-side apply is patch, and create at first
OTHERS = {
    (kinds.TOPOLOGY.group, kinds.TOPOLOGY.plural): {"get", "list", "watch", "patch"},
    (kinds.TOPOLOGY.group, f"{kinds.TOPOLOGY.plural}/status"): {"patch"},
    (kinds.TOPOLOGY.group, f"{kinds.TOPOLOGY.plural}/finalizers"): {"update"},
    (kinds.POD.group, kinds.POD.plural): {"list"},
    (kinds.POD.group, f"{kinds.POD.plural}/proxy"): {"get"},
    (kinds.EVENT.group, kinds.EVENT.plural): {"create", "list"},
}


@pytest.mark.parametrize(("values", "kind"), [(None, "ClusterRole"), (WATCHED, "ClusterRole"), (NAMESPACED, "Role")])
def test_rules_are_what_the_code_calls(values: pathlib.Path | None, kind: str) -> None:
    roles = [each for each in charts.of_kind(charts.rendered(values), kind) if "operator" in each["metadata"]["name"]]
    needed = OTHERS | {(each.group, each.plural): CHILD_VERBS for each in kinds.CHILDREN}
    needed[kinds.CERTIFICATE.group, kinds.CERTIFICATE.plural] = CHILD_VERBS - {"watch"}
    assert roles
    for role in roles:
        assert given(role) == needed


def test_rules_for_pools_in_another_cluster_are_what_the_code_calls_there() -> None:
    """The operator watches nothing there: it lists at each pass."""
    text = (charts.ROOT / "manifests" / "edge" / "rights.yaml").read_text()
    pods = {key: verbs for key, verbs in OTHERS.items() if key[1].startswith(kinds.POD.plural)}
    events = {(kinds.EVENT.group, kinds.EVENT.plural): {"list"}}
    needed = pods | events | {(each.group, each.plural): CHILD_VERBS - {"watch"} for each in kinds.REMOTE_CHILDREN}
    assert given(charts.only(list(yaml.safe_load_all(text)), "Role")) == needed


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
