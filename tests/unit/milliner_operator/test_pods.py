"""Pods as built: admitted where Pod Security `restricted` is enforced, and where the spec wants them."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner.contract import names
from milliner_operator.children import common
from milliner_operator.observed import Manifest


def template(changes: dict[str, Any] | None = None, *, name: str, kind: str = "Deployment") -> Manifest:
    found: Manifest = worlds.child(worlds.planned(changes), kind, name)["spec"]["template"]
    return found


def container(changes: dict[str, Any] | None = None, *, name: str, kind: str = "Deployment") -> dict[str, Any]:
    found: dict[str, Any] = template(changes, name=name, kind=kind)["spec"]["containers"][0]
    return found


@pytest.mark.parametrize("name", ["chat-cloud", "chat-device-local"])
def test_pods_are_restricted(name: str) -> None:
    spec = template(name=name)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for each in spec["containers"]:
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in each["ports"])
    allowed = ({"configMap"}, {"emptyDir"}, {"secret"}, {"persistentVolumeClaim"})
    assert all(set(volume) - {"name"} in allowed for volume in spec["volumes"])


@pytest.mark.parametrize("name", ["chat-cloud", "chat-device-local"])
def test_a_container_that_fails_leaves_its_cause(name: str) -> None:
    assert container(name=name)["terminationMessagePolicy"] == "FallbackToLogsOnError"


@pytest.mark.parametrize(
    ("pool", "host_port"),
    [
        ({"name": "p"}, 8080),
        ({"name": "p", "api": {"exposure": "Service"}}, None),
        ({"name": "p", "api": {"exposure": "None"}}, None),
        ({"name": "p", "emulation": {}}, None),
    ],
)
def test_host_ports_only_for_one_pod_per_real_device(pool: dict[str, Any], host_port: int | None) -> None:
    ports = container({"spec.devicePools": [pool]}, name="chat-device-p", kind="DaemonSet")["ports"]
    assert ports[0].get("hostPort") == host_port


def test_real_devices_are_not_churned_and_emulated_ones_move() -> None:
    offline = {"node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"}
    spec = template({"spec.devicePools": [{"name": "p"}]}, name="chat-device-p", kind="DaemonSet")["spec"]
    assert {each["key"] for each in spec["tolerations"]} == offline
    assert not any({"tolerationSeconds", "effect"} & each.keys() for each in spec["tolerations"])
    emulated = {"spec.devicePools": [{"name": "p", "emulation": {}}]}
    assert "tolerations" not in template(emulated, name="chat-device-p", kind="DaemonSet")["spec"]


def test_the_spec_reaches_the_pod() -> None:
    changes = {
        "spec.cloud.accelerator": {"resourceName": "nvidia.com/gpu", "count": 2},
        "spec.cloud.pod": {
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "runtimeClassName": "nvidia",
            "priorityClassName": "serving",
            "resources": {"requests": {"cpu": "2"}},
        },
        "spec.model": {
            "source": "hf://org/name@main",
            "credentialsSecretRef": {"name": "hub", "key": "token"},
        },
        "spec.strategy.hat": {"adapter": {"source": "pvc://models/adapters/s2"}},
        "spec.devicePools": [
            {"name": "p", "nodeSelector": {"device": "orin"}, "api": {"keysSecretRef": {"name": "k"}}}
        ],
    }
    cloud = template(changes, name="chat-cloud")["spec"]
    assert (cloud["nodeSelector"], cloud["runtimeClassName"], cloud["priorityClassName"]) == (
        {"zone": "a"},
        "nvidia",
        "serving",
    )
    requests = {"cpu": "2", "memory": "256Mi"}
    assert cloud["containers"][0]["resources"] == {"requests": requests, "limits": {"nvidia.com/gpu": "2"}}
    assert {"name": "credentials", "mountPath": "/etc/milliner-credentials", "readOnly": True} in cloud["containers"][
        0
    ]["volumeMounts"]
    assert not any("persistentVolumeClaim" in each for each in cloud["volumes"])
    device = template(changes, name="chat-device-p", kind="DaemonSet")["spec"]
    assert device["nodeSelector"] == {"device": "orin"}
    claims = [each["persistentVolumeClaim"] for each in device["volumes"] if "persistentVolumeClaim" in each]
    assert claims == [{"claimName": "models", "readOnly": True}]
    assert any(each.get("secret", {}).get("secretName") == "k" for each in device["volumes"])


@pytest.mark.parametrize(
    ("pod", "visible"),
    [
        ({"runtimeClassName": "nvidia"}, "all"),
        ({"runtimeClassName": "nvidia", "resources": {"limits": {"memory": "8Gi"}}}, "all"),
        ({"runtimeClassName": "nvidia", "resources": {"limits": {"nvidia.com/gpu": 1}}}, None),
        ({}, None),
    ],
)
def test_a_jetson_sees_its_gpu_by_the_runtime_alone(pod: dict[str, Any], visible: str | None) -> None:
    pools = {"spec.devicePools": [{"name": "p", "pod": pod}]}
    variables = container(pools, name="chat-device-p", kind="DaemonSet")["env"]
    found = {each["name"]: each.get("value") for each in variables}
    assert found.get("NVIDIA_VISIBLE_DEVICES") == visible


@pytest.mark.parametrize(
    ("limits", "requests"),
    [
        ({}, {"cpu": "100m", "memory": "256Mi"}),
        ({"memory": "128Mi"}, {"cpu": "100m", "memory": "128Mi"}),
        ({"cpu": "2", "memory": "1Gi"}, {"cpu": "100m", "memory": "256Mi"}),
    ],
)
def test_default_requests_are_never_above_a_limit(limits: dict[str, str], requests: dict[str, str]) -> None:
    changes = {"spec.cloud.pod": {"resources": {"limits": limits}}}
    assert container(changes, name="chat-cloud")["resources"]["requests"] == requests


def test_a_cpu_request_is_always_there_for_autoscaling_to_relate_to() -> None:
    changes = {"spec.cloud.pod": {"resources": {"requests": {"memory": "8Gi"}}}}
    assert container(changes, name="chat-cloud")["resources"]["requests"] == {"cpu": "100m", "memory": "8Gi"}


def test_an_accelerator_is_handed_out_by_its_plugin() -> None:
    changes = {"spec.cloud.accelerator": {}, "spec.cloud.pod": {"runtimeClassName": "nvidia"}}
    assert not any(each["name"] == "NVIDIA_VISIBLE_DEVICES" for each in container(changes, name="chat-cloud")["env"])


def test_names_and_revisions_come_from_the_pod_itself() -> None:
    variables = {each["name"]: each for each in container(name="chat-cloud")["env"]}
    assert variables["MILLINER_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert names.LABEL_REVISION in variables["MILLINER_REVISION"]["valueFrom"]["fieldRef"]["fieldPath"]


def test_selectors_are_labels_of_the_pods_and_have_no_version() -> None:
    plan = worlds.planned({"spec.devicePools": [{"name": "a"}, {"name": "b", "replicas": 2}]})
    for workload in (each for each in plan.local if each["kind"] in ("Deployment", "DaemonSet")):
        chosen = workload["spec"]["selector"]["matchLabels"]
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert chosen.items() <= labels.items()
        assert not {"app.kubernetes.io/version", names.LABEL_REVISION} & set(chosen)
        assert {f"app.kubernetes.io/{each}" for each in ("name", "instance", "component", "part-of")} <= set(labels)
        assert labels["app.kubernetes.io/version"] == "1.2.3"


@pytest.mark.parametrize(
    ("changes", "rolling"),
    [
        ({}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"spec.cloud.replicas": 4}, {"maxSurge": 1, "maxUnavailable": 1}),
        ({"spec.cloud.replicas": 0}, {"maxSurge": 1, "maxUnavailable": 0}),
        ({"spec.cloud.accelerator": {}}, {"maxSurge": 0, "maxUnavailable": 1}),
        (
            {"spec.cloud.accelerator": {}, "spec.cloud.rollout": {"maxUnavailable": 0}},
            {"maxSurge": 1, "maxUnavailable": 0},
        ),
    ],
)
def test_rollouts_never_stand_still_and_never_take_a_single_replica_away(
    changes: dict[str, Any], rolling: dict[str, int]
) -> None:
    spec = worlds.child(worlds.planned(changes), "Deployment", "chat-cloud")["spec"]
    assert spec["strategy"]["rollingUpdate"] == rolling
    assert spec["progressDeadlineSeconds"] >= 1800, "a model that loads was called stalled"


def test_a_deployment_that_somebody_paused_goes_on() -> None:
    """Its rollouts waited for ever, and the status could not tell why."""
    for name in ("chat-cloud", "chat-device-local"):
        wanted = worlds.child(worlds.planned(), "Deployment", name)["spec"]
        assert wanted["paused"] is False, name


def test_every_pod_is_under_a_policy_with_only_declared_edges() -> None:
    plan = worlds.planned()
    policy = worlds.child(plan, "NetworkPolicy", "chat-cloud")["spec"]
    grpc, health = policy["ingress"]
    assert grpc["from"] == [
        {"podSelector": {"matchLabels": {names.LABEL_TOPOLOGY: "chat", names.LABEL_ROLE: "device"}}}
    ]
    assert [each["port"] for each in health["ports"]] == [common.HEALTH_PORT]
    assert [[each["port"] for each in rule["ports"]] for rule in policy["egress"]] == [[53, 53, 5353, 5353]]
    device = worlds.child(plan, "NetworkPolicy", "chat-device-local")["spec"]
    assert [each["ports"][0]["port"] for each in device["ingress"]] == [8080, common.HEALTH_PORT]
    assert device["egress"][0]["to"] == [
        {"podSelector": {"matchLabels": {names.LABEL_TOPOLOGY: "chat", names.LABEL_ROLE: "cloud"}}}
    ]
    for name in ("chat-cloud", "chat-device-local"):
        labels = worlds.child(plan, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
        chosen = worlds.child(plan, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"]
        assert chosen.items() <= labels.items()


def test_sources_and_traces_on_the_network_open_their_ports_only() -> None:
    changes = {
        "spec.model.source": "hf://org/name",
        "spec.strategy.hat": {"drafting": {"control": "Disabled"}},
        "spec.tracing": {"otlpEndpoint": "http://collector.example:4318"},
    }
    policy = worlds.child(worlds.planned(changes), "NetworkPolicy", "chat-cloud")["spec"]
    ports = [[53, 53, 5353, 5353], [80, 443, 4318]]
    assert [[each["port"] for each in rule["ports"]] for rule in policy["egress"]] == ports


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("collector", {"podSelector": {}}),
        ("otel.tracing.svc", {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracing"}}}),
        (
            "otel.tracing.svc.cluster.local",
            {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tracing"}}},
        ),
        ("collector.example", None),
        ("svc.example", None),
        ("10.1.2.3", None),
        ("[fd00::1]", None),
    ],
)
def test_a_service_may_have_its_pods_listen_at_another_port(host: str, peer: dict[str, Any] | None) -> None:
    """A policy sees packets after the Service's port was replaced by its `targetPort`: traces never arrived."""
    plan = worlds.planned({"spec.tracing": {"otlpEndpoint": f"http://{host}:80"}})
    for name in ("chat-cloud", "chat-device-local"):
        egress = worlds.child(plan, "NetworkPolicy", name)["spec"]["egress"]
        assert any({"protocol": "TCP", "port": 80} in rule.get("ports", ()) for rule in egress)
        assert [rule["to"] for rule in egress if "ports" not in rule] == ([] if peer is None else [[peer]])
