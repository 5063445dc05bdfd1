"""The charts at a real API server: server-side dry run, the rights they give, upgrade, uninstall. No nodes needed."""

from __future__ import annotations

import copy
import pathlib
import shutil
from collections.abc import Iterator

import pytest
import yaml
from tests.chart import charts, kubectl

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("api_server")]

MONITORING = "monitoring.coreos.com/v1"  # Prometheus Operator's kinds: not every cluster has them
OTHER_NAMES = {
    "inferencetopologies": "testtopologies",
    "inferencetopology": "testtopology",
    "InferenceTopology": "TestTopology",
    "itopo": "testitopo",
}
PLURAL = "testtopologies"
CRD = f"{PLURAL}.milliner.dev"
CRD_RELEASE = "crds-under-test"
TOPOLOGY: charts.Document = {
    "apiVersion": "milliner.dev/v1alpha1",
    "kind": "TestTopology",
    "metadata": {"name": "kept", "namespace": "team-a"},
    "spec": {
        "model": {"source": "builtin://demo"},
        "strategy": {"type": "Hat"},
        "devicePools": [{"name": "emulated", "replicas": 1}],
    },
}


@pytest.mark.parametrize("values", charts.VALUE_SETS, ids=lambda each: each.stem if each else "defaults")
def test_the_api_server_takes_every_rendering(values: pathlib.Path | None) -> None:
    documents = [each for each in charts.rendered(values) if each["apiVersion"] != MONITORING]
    lines = kubectl.apply(documents, "--dry-run=server").splitlines()
    assert len(lines) == len(documents)


def test_the_api_server_takes_install_yaml() -> None:
    text = (charts.ROOT / "manifests" / "install.yaml").read_text()
    documents = [document for document in yaml.safe_load_all(text) if document]
    assert len(kubectl.apply(documents, "--dry-run=server").splitlines()) == len(documents)


@pytest.fixture(params=["cluster-wide", "namespaced"])
def user(request: pytest.FixtureRequest) -> Iterator[tuple[str, bool]]:
    """The operator's user with the chart's roles applied, and whether these hold in all namespaces."""
    values = None if request.param == "cluster-wide" else charts.OPERATOR_CHART / "ci" / "namespaced-values.yaml"
    release = f"rights-{request.param}"
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    documents = [each for each in charts.rendered(values, release=release) if each["kind"] in kinds]
    kubectl.apply(documents)
    name = charts.only(documents, "ServiceAccount")["metadata"]["name"]
    yield f"system:serviceaccount:{charts.NAMESPACE}:{name}", values is None
    kubectl.run("delete", "-f", "-", "--ignore-not-found", documents=documents)


# What would let the operator become somebody else, run anything anywhere, or harm what is not Milliner's.
NEVER = (
    ("create", "", "pods"),
    ("delete", "", "pods"),
    ("create", "", "pods/exec"),
    ("create", "", "pods/proxy"),
    ("get", "", "pods/log"),
    ("create", "", "serviceaccounts/token"),
    ("impersonate", "", "serviceaccounts"),
    ("create", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("escalate", "rbac.authorization.k8s.io", "roles"),
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("patch", "", "nodes"),
    ("delete", "", "namespaces"),
    ("create", "", "persistentvolumes"),
    ("delete", "", "persistentvolumeclaims"),
    ("deletecollection", "", "secrets"),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions"),
    ("create", "admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("create", "milliner.dev", "inferencetopologies"),
    ("delete", "milliner.dev", "inferencetopologies"),
    ("update", "milliner.dev", "inferencetopologies"),
)
NEEDED = (
    ("watch", "milliner.dev", "inferencetopologies"),
    ("patch", "milliner.dev", "inferencetopologies/status"),
    ("create", "apps", "deployments"),
    ("patch", "apps", "daemonsets"),
    ("delete", "batch", "jobs"),
    ("list", "", "pods"),
    ("get", "", "pods/proxy"),
    ("create", "", "secrets"),
    ("create", "", "events"),
)


def test_rights_reach_as_far_as_needed_and_no_farther(user: tuple[str, bool]) -> None:
    name, everywhere = user
    never = [(*request, space) for request in NEVER for space in ("team-a", "kube-system")]
    assert [request for request, may in zip(never, kubectl.allowed(name, never), strict=True) if may] == []
    needed = [(*request, space) for request in NEEDED for space in ("team-a", "team-b")]
    assert all(kubectl.allowed(name, needed))
    elsewhere = [(*request, "kube-system") for request in NEEDED]
    assert set(kubectl.allowed(name, elsewhere)) == {everywhere}


NEW_FIELD = ("fallback", "waitSeconds")


@pytest.fixture
def crds(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """The chart of the definition under other names, so that nothing of the cluster's own is touched."""
    chart = pathlib.Path(shutil.copytree(charts.CRD_CHART, tmp_path / "crds"))
    (template,) = (chart / "templates").glob("*.yaml")
    text = template.read_text()
    for name, other in OTHER_NAMES.items():
        text = text.replace(name, other)
    (chart / "templates" / template.name).unlink()
    (chart / "templates" / "crd.yaml").write_text(text)
    yield chart
    charts.helm("uninstall", CRD_RELEASE, "--namespace", charts.NAMESPACE, "--ignore-not-found")
    kubectl.run("delete", "crd", CRD, "--ignore-not-found")


def test_helm_upgrades_the_definition_rolls_it_back_and_uninstall_keeps_resources(
    crds: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def uid() -> str:
        return str(kubectl.get(PLURAL, "kept", namespace="team-a")["metadata"]["uid"])

    with_field = copy.deepcopy(TOPOLOGY)
    with_field["spec"]["fallback"] = {"waitSeconds": 7}
    _helm("install", CRD_RELEASE, charts.older_definition(tmp_path / "older", without=NEW_FIELD, of=crds))
    # Not `kubectl wait`, which fails where the definition has no status yet (seen once in some hundred runs).
    kubectl.apply_when_taken(TOPOLOGY)
    before = uid()
    assert 'unknown field "waitSeconds"' in kubectl.refusal(with_field)

    _helm("upgrade", CRD_RELEASE, crds)
    kubectl.apply_when_taken(with_field)
    assert kubectl.get(PLURAL, "kept", namespace="team-a")["spec"]["fallback"]["waitSeconds"] == 7

    _helm("rollback", CRD_RELEASE)
    assert 'unknown field "waitSeconds"' in kubectl.refusal(with_field)
    _helm("uninstall", CRD_RELEASE)
    assert uid() == before


def _helm(*arguments: str | pathlib.Path) -> None:
    done = charts.helm(*arguments, "--namespace", charts.NAMESPACE)
    assert done.returncode == 0, done.stderr
