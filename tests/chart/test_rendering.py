"""What holds of every rendering of the operator's chart, and what single values do."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
from tests.chart import charts

SETS = pytest.mark.parametrize("values", charts.VALUE_SETS, ids=lambda each: each.stem if each else "defaults")
LABELS = {"name", "instance", "component", "part-of", "version", "managed-by"}
CLUSTER_WIDE = {"ClusterRole", "ClusterRoleBinding"}


def test_there_are_value_sets() -> None:
    assert len(charts.VALUE_SETS) >= 6


@SETS
def test_lint_finds_nothing(values: pathlib.Path | None) -> None:
    options = () if values is None else ("--values", values)
    done = charts.helm("lint", "--strict", charts.OPERATOR_CHART, *options)
    assert done.returncode == 0, done.stdout


@SETS
def test_names_labels_and_namespaces(values: pathlib.Path | None) -> None:
    documents = charts.rendered(values)
    names = [(each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"]) for each in documents]
    assert len(set(names)) == len(names)
    for document in documents:
        metadata = document["metadata"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", metadata["name"])
        assert ("namespace" in metadata) == (document["kind"] not in CLUSTER_WIDE)
        if document["kind"] != "Pod":
            assert {f"app.kubernetes.io/{name}" for name in LABELS} <= set(metadata["labels"]), metadata["name"]


@SETS
def test_selectors_select_the_operator_and_hold_no_version(values: pathlib.Path | None) -> None:
    documents = charts.rendered(values)
    deployment = charts.only(documents, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment["spec"]["selector"]["matchLabels"], charts.only(documents, "Service")["spec"]["selector"]]
    for kind, field in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        selectors += [each["spec"][field]["matchLabels"] for each in charts.of_kind(documents, kind)]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not {"app.kubernetes.io/version", "helm.sh/chart"} & set(selector)
    for pod in charts.of_kind(documents, "Pod"):
        assert not selectors[0].items() <= pod["metadata"]["labels"].items()  # the test pod is no operator


@SETS
def test_pods_pass_pod_security_restricted(values: pathlib.Path | None) -> None:
    documents = charts.rendered(values)
    pods = [charts.only(documents, "Deployment")["spec"]["template"]["spec"]]
    pods += [each["spec"] for each in charts.of_kind(documents, "Pod")]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]


@SETS
def test_never_two_operators(values: pathlib.Path | None) -> None:
    spec = charts.only(charts.rendered(values), "Deployment")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})


def test_long_release_names_are_cut() -> None:
    for document in charts.rendered(release="a" * 53):
        assert len(document["metadata"]["name"]) <= 63


def test_images_by_tag_digest_and_chart_version() -> None:
    pinned = charts.OPERATOR_CHART / "ci" / "pinned-values.yaml"
    container, environment = _operator(charts.rendered(pinned))
    assert container["image"].startswith("registry.example.com/ml/milliner-operator@sha256:0123")
    assert environment["MILLINER_RUNTIME_IMAGE"] == "registry.example.com:5000/ml/milliner-runtime:v1.2.3"
    assert environment["MILLINER_IMAGE_PULL_SECRETS"] == "registry,registry-too"
    container, environment = _operator(charts.rendered())
    version = re.search(r"^appVersion: (.+)$", (charts.OPERATOR_CHART / "Chart.yaml").read_text(), re.MULTILINE)
    assert version is not None and container["image"] == f"milliner/operator:{version[1]}"
    assert "MILLINER_IMAGE_PULL_SECRETS" not in environment and "MILLINER_WATCH_NAMESPACES" not in environment


def test_ports_of_probe_container_and_environment_agree() -> None:
    container, environment = _operator(charts.rendered(charts.OPERATOR_CHART / "ci" / "placed-values.yaml"))
    ports = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    assert ports == {"metrics": "9443", "liveness": "8443"}
    assert environment["MILLINER_METRICS_PORT"] == "9443" and environment["MILLINER_LIVENESS_PORT"] == "8443"
    assert container["livenessProbe"]["httpGet"]["port"] == "liveness"
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "liveness"}


def test_the_operator_takes_every_setting_of_the_chart() -> None:
    from milliner_operator import settings

    _, environment = _operator(charts.rendered(charts.OPERATOR_CHART / "ci" / "monitored-values.yaml"))
    read = settings.read(environment)
    assert read.otlp_endpoint == "http://otel-collector.observability:4317"
    assert (read.tracing_sampling_percent, read.queue_metric) == (100, "milliner_queue_milliseconds")
    assert read.outside == settings.Outside(
        hub_endpoint="https://hub.example.com",
        https_proxy="http://proxy.example.com:3128",
        http_proxy="http://proxy.example.com:3129",
        no_proxy=".svc,hub.example.com",
    )
    _, environment = _operator(charts.rendered(charts.OPERATOR_CHART / "ci" / "namespaced-values.yaml"))
    assert settings.read(environment).watch_namespaces == ("team-a", "team-b")


def test_the_roles_log_level_is_apart_from_the_operators() -> None:
    from milliner_operator import settings

    _, environment = _operator(charts.rendered(charts.OPERATOR_CHART / "ci" / "placed-values.yaml"))
    read = settings.read(environment)
    assert (read.log_level, read.runtime_log_level) == ("DEBUG", "WARNING")


def test_the_test_pod_may_read_metrics_where_few_may() -> None:
    """`helm test` timed out at the operator's own policy as soon as `metricsFrom` was set."""
    monitoring = '[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]'
    for enabled, peers in (("true", 2), ("false", 1)):
        documents = charts.rendered(sets={"networkPolicy.metricsFrom": monitoring, "tests.enabled": enabled})
        (rule,) = charts.only(documents, "NetworkPolicy")["spec"]["ingress"]
        assert len(rule["from"]) == peers
        for pod in charts.of_kind(documents, "Pod"):
            assert rule["from"][1]["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    assert "from" not in charts.only(charts.rendered(), "NetworkPolicy")["spec"]["ingress"][0]


def test_dashboards_alerts_and_monitors_only_where_asked_for() -> None:
    extra = {"PrometheusRule", "ServiceMonitor", "PodMonitor"}
    assert not extra & {each["kind"] for each in charts.rendered()} and not _dashboards(charts.rendered())
    documents = charts.rendered(charts.OPERATOR_CHART / "ci" / "monitored-values.yaml")
    assert extra <= {each["kind"] for each in documents} and _dashboards(documents)
    rules = [rule for group in charts.only(documents, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    assert all(rule["annotations"]["runbook_url"].endswith(f"#{rule['alert'].lower()}") for rule in rules)


def _dashboards(documents: list[charts.Document]) -> list[charts.Document]:
    return [
        each for each in charts.of_kind(documents, "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]
    ]


def _operator(documents: list[charts.Document]) -> tuple[dict[str, Any], dict[str, str]]:
    """The operator's container and its environment."""
    (container,) = charts.only(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container, {each["name"]: each["value"] for each in container["env"]}
