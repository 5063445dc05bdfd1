"""What is planned for which topology and world, and what is refused in which words."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner.contract import role_config
from milliner_operator import planner, settings
from milliner_operator.children import common
from milliner_operator.conditions import Reason, Type
from milliner_operator.observed import ClusterRef, RemoteCluster, World

CLOUD = {("ServiceAccount", "chat-cloud"), ("ConfigMap", "chat-cloud"), ("Service", "chat-cloud")}
CLOUD |= {("NetworkPolicy", "chat-cloud"), ("PodDisruptionBudget", "chat-cloud"), ("Deployment", "chat-cloud")}
EDGE = ClusterRef("edge", "kubeconfig")
REMOTE_POOL = {"name": "orin", "clusterSecretRef": {"name": "edge"}}


def device(kind: str, pool: str = "local") -> set[tuple[str, str]]:
    return {(each, f"chat-device-{pool}") for each in ("ServiceAccount", "ConfigMap", "NetworkPolicy", kind)}


FACTS = {("ConfigMap", "chat-facts"), ("ConfigMap", "chat-accepted")}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, CLOUD | FACTS | device("Deployment") | {("Service", "chat-device-local")}),
        ({"spec.devicePools": [{"name": "orin"}]}, CLOUD | FACTS | device("DaemonSet", "orin")),
        (
            {"spec.cloud.scaling": {"minReplicas": 1, "maxReplicas": 3}, "spec.devicePools": [{"name": "orin"}]},
            CLOUD | FACTS | device("DaemonSet", "orin") | {("HorizontalPodAutoscaler", "chat-cloud")},
        ),
        (
            {"spec.cloud.service": {"type": "LoadBalancer"}, "spec.devicePools": [{"name": "orin"}]},
            CLOUD | FACTS | device("DaemonSet", "orin") | {("Service", "chat-cloud-external")},
        ),
        (
            {"spec.devicePools": [{"name": "a", "api": {"exposure": "None"}}, {"name": "b", "emulation": {}}]},
            CLOUD | FACTS | device("DaemonSet", "a") | device("DaemonSet", "b") | {("Service", "chat-device-b")},
        ),
    ],
)
def test_children_of_a_topology(changes: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    plan = worlds.planned(changes)
    assert worlds.kinds_and_names(plan.local) == expected
    assert plan.complete


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"spec.strategy.hat": {"splitLayer": 40}},
            "strategy.hat.splitLayer is 40, the model has 8 layers: use 1 to 7",
        ),
        ({"spec.model.source": "file:///models/demo"}, "model.source is file:///models/demo, a folder of one machine"),
        ({"spec.model.source": "pvc://models/../secrets"}, "a path must not contain .."),
        ({"spec.devicePools": [REMOTE_POOL]}, "cloud.service.type is ClusterIP but devicePools[0] lives in another"),
    ],
)
def test_refused_specs_leave_everything_as_it_is(changes: dict[str, Any], message: str) -> None:
    plan = worlds.planned(changes)
    condition = plan.condition(Type.SPEC_VALID)
    assert condition is not None and condition.status is False
    assert message in condition.message
    assert not plan.complete
    assert not any(each["kind"] in ("Deployment", "DaemonSet") for each in plan.local)


@pytest.mark.parametrize(
    ("changes", "facts_changes", "message"),
    [
        ({"spec.model.digest": "sha256:" + "0" * 64}, {}, "the files at model.source have sha256:ddd"),
        ({}, {"drafterModelDigest": "sha256:" + "1" * 64}, "was trained for a model with digest sha256:111"),
    ],
)
def test_another_model_is_a_mismatch(changes: dict[str, Any], facts_changes: dict[str, Any], message: str) -> None:
    wanted = worlds.parsed(changes)
    plan = worlds.planned(changes, line=worlds.facts_line(wanted, **facts_changes))
    condition = plan.condition(Type.MODEL_READY)
    assert condition is not None and condition.reason is Reason.MODEL_DIGEST_MISMATCH
    assert message in condition.message


def test_configurations_are_those_that_roles_read() -> None:
    wanted = worlds.parsed({"spec.tracing": {"otlpEndpoint": "http://collector:4317", "samplingPercent": 50}})
    seen = worlds.world(wanted, identities=worlds.identities(wanted))
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    cloud = role_config.CloudRoleConfig.model_validate_json(
        worlds.child(plan, "ConfigMap", "chat-cloud")["data"]["config.json"]
    )
    device_config = role_config.DeviceRoleConfig.model_validate_json(
        worlds.child(plan, "ConfigMap", "chat-device-local")["data"]["config.json"]
    )
    assert cloud.slice == role_config.SliceBounds(start=2, end=8)
    assert (cloud.listen.host, cloud.listen.port, cloud.health_port) == ("::", common.GRPC_PORT, 9090)
    assert device_config.cloud_endpoints == ("dns:chat-cloud.default.svc:50051",)
    assert device_config.strategy.adapter_source == "builtin://demo"
    for config in (cloud, device_config):
        assert config.model.source == "builtin://demo" and config.model.fingerprint == "f00d"
        assert config.tls is not None and config.tls.server_name == "chat-cloud.default.svc"
        assert config.tracing is not None and config.tracing.sampling_percent == 50
    # what runs may end, within what the kubelet waits, its preStop hook of 5 s and the role's own ending taken off
    for name, drain_s in {"chat-cloud": cloud.drain_seconds, "chat-device-local": device_config.drain_seconds}.items():
        pod_spec = worlds.child(plan, "Deployment", name)["spec"]["template"]["spec"]
        assert 0 < drain_s <= pod_spec["terminationGracePeriodSeconds"] - 15


def test_devices_drain_as_long_as_their_pool_says() -> None:
    for options, drain_s in (({}, 60), ({"drainSeconds": 300}, 300), ({"drainSeconds": 0}, 0)):
        plan = worlds.planned({"spec.devicePools": [{"name": "p", **options}]})
        config = json.loads(worlds.child(plan, "ConfigMap", "chat-device-p")["data"]["config.json"])
        pod = worlds.child(plan, "DaemonSet", "chat-device-p")["spec"]["template"]["spec"]
        assert (config["drainSeconds"], pod["terminationGracePeriodSeconds"]) == (drain_s, drain_s + 15)


@pytest.mark.parametrize(
    ("pool", "most"),
    [
        ({}, "10%"),
        ({"rollout": {"maxUnavailable": 3}}, 3),
        ({"rollout": {"maxUnavailable": "25%"}}, "25%"),
        ({"rollout": {"maxUnavailable": "25%"}, "replicas": 4}, "25%"),
    ],
)
def test_as_many_devices_are_replaced_at_once_as_the_pool_says(pool: dict[str, Any], most: str | int) -> None:
    plan = worlds.planned({"spec.devicePools": [{"name": "p", **pool}]})
    kind, field = ("Deployment", "strategy") if "replicas" in pool else ("DaemonSet", "updateStrategy")
    rolling = worlds.child(plan, kind, "chat-device-p")["spec"][field]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": most}


def test_the_operators_own_log_level_replaces_no_pod_and_the_roles_does() -> None:
    wanted = worlds.parsed()
    found = []
    own = dataclasses.replace(worlds.SETTINGS, log_level="DEBUG")
    of_roles = dataclasses.replace(worlds.SETTINGS, runtime_log_level="DEBUG")
    for chosen in (worlds.SETTINGS, own, of_roles):
        scope = worlds.scope(chosen)
        plan = planner.plan_topology(wanted, scope=scope, world=worlds.world(wanted), now=worlds.NOW)
        found.append([each.revision for each in plan.roles])
    usual, operators, roles = found
    assert usual == operators
    assert not set(usual) & set(roles)


@pytest.mark.parametrize(
    ("source", "digest"),
    [("hf://org/name@v1", worlds.DIGEST), ("https://host/model", worlds.DIGEST), ("pvc://c/m", None)],
)
def test_who_fetches_a_part_of_a_model_is_told_the_digest_of_the_whole(source: str, digest: str | None) -> None:
    adapter = {"source": "hf://org/adapter"}
    plan = worlds.planned({"spec.model.source": source, "spec.strategy": {"type": "Hat", "hat": {"adapter": adapter}}})
    for name in ("chat-cloud", "chat-device-local"):
        found = json.loads(worlds.child(plan, "ConfigMap", name)["data"]["config.json"])
        assert found["model"].get("digest") == digest


def test_policies_open_the_port_that_a_source_names() -> None:
    adapter = {"source": "hf://org/adapter@v1"}
    strategy = {"type": "Hat", "hat": {"adapter": adapter}}
    plan = worlds.planned({"spec.model.source": "http://files:8080/model", "spec.strategy": strategy})
    for name in ("chat-cloud", "chat-device-local"):
        ports = {
            port["port"]
            for rule in worlds.child(plan, "NetworkPolicy", name)["spec"]["egress"]
            for port in rule.get("ports", ())
        }
        assert {80, 443, 8080} <= ports


OUTSIDE = settings.Outside(hub_endpoint="https://hub.example:8443", https_proxy="http://proxy.example:3128")
VARIABLES = {"HF_ENDPOINT": "https://hub.example:8443", "HTTPS_PROXY": "http://proxy.example:3128"}


def test_all_who_fetch_go_the_way_that_the_settings_name_and_may_go_it() -> None:
    wanted = worlds.parsed({"spec.model.source": "hf://org/name", "spec.strategy": {"type": "UShape"}})
    scope = worlds.scope(dataclasses.replace(worlds.SETTINGS, outside=OUTSIDE))
    first = planner.plan_topology(wanted, scope=scope, world=World(objects={}), now=worlds.NOW)
    line = worlds.facts_line(wanted, at=scope, drafterKind=None, drafterSplit=None)
    second = planner.plan_topology(wanted, scope=scope, world=worlds.world(wanted, line=line), now=worlds.NOW)
    workloads = [each for each in (*first.local, *second.local) if each["kind"] in ("Job", "Deployment")]
    policies = [each for each in (*first.local, *second.local) if each["kind"] == "NetworkPolicy"]
    assert (len(workloads), len(policies)) == (3, 3)
    for each in workloads:
        variables = {one["name"]: one.get("value") for one in each["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert variables.items() >= VARIABLES.items()
        assert "NO_PROXY" not in variables
    for each in policies:
        ports = {port["port"] for rule in each["spec"]["egress"] for port in rule.get("ports", ())}
        assert {8443, 3128} <= ports


def test_pods_that_fetch_nothing_are_not_replaced_for_a_mirror() -> None:
    wanted = worlds.parsed()
    revisions = []
    for chosen in (settings.Outside(), OUTSIDE):
        scope = worlds.scope(dataclasses.replace(worlds.SETTINGS, outside=chosen))
        plan = planner.plan_topology(wanted, scope=scope, world=worlds.world(wanted), now=worlds.NOW)
        revisions.append([each.revision for each in plan.roles])
    assert revisions[0] == revisions[1] and all(revisions[0])


@pytest.mark.parametrize(
    ("source", "changed", "asked_again"),
    [
        ("builtin://demo", {"runtime_image": "registry.example/milliner/runtime:1.2.4"}, True),
        ("builtin://demo", {"outside": OUTSIDE}, False),
        ("hf://org/name", {"outside": OUTSIDE}, True),
        ("hf://org/name", {"runtime_image": "registry.example/milliner/runtime:1.2.4"}, False),
        ("pvc://models/name", {"outside": OUTSIDE}, False),
    ],
)
def test_facts_hold_for_the_place_that_they_were_read_at(
    source: str, changed: dict[str, Any], asked_again: bool
) -> None:
    wanted = worlds.parsed({"spec.model.source": source, "spec.strategy": {"type": "UShape"}})
    scope = worlds.scope(dataclasses.replace(worlds.SETTINGS, **changed))
    known = worlds.world(wanted, line=worlds.facts_line(wanted, drafterKind=None, drafterSplit=None))
    plan = planner.plan_topology(wanted, scope=scope, world=known, now=worlds.NOW)
    assert (plan.facts is None) == asked_again
    assert any(each["kind"] == "Job" for each in plan.local) == asked_again


def test_a_change_of_one_role_leaves_the_others_revision() -> None:
    before = {each.workload: each.revision for each in worlds.planned().roles}
    pools = [{"name": "local", "replicas": 1, "api": {"port": 9000}}]
    after = {each.workload: each.revision for each in worlds.planned({"spec.devicePools": pools}).roles}
    assert before["Deployment", "chat-cloud"] == after["Deployment", "chat-cloud"]
    assert before["Deployment", "chat-device-local"] != after["Deployment", "chat-device-local"]


def test_replicas_are_no_part_of_a_revision() -> None:
    before, after = worlds.planned(), worlds.planned({"spec.cloud.replicas": 5})
    assert [each.revision for each in before.roles] == [each.revision for each in after.roles]


def test_an_autoscaler_takes_replicas_over_without_a_drop() -> None:
    changes = {"spec.cloud.scaling": {"minReplicas": 2, "maxReplicas": 8}}
    assert "replicas" not in worlds.child(worlds.planned(changes), "Deployment", "chat-cloud")["spec"]
    live = worlds.child(worlds.planned({"spec.cloud.replicas": 4}), "Deployment", "chat-cloud")
    fields: dict[str, object] = {"f:spec": {"f:replicas": {}}}
    entry = {"manager": "milliner-operator", "operation": "Apply", "fieldsV1": fields}
    live["metadata"]["managedFields"] = [entry]
    plan = worlds.planned(changes, objects={("Deployment", "chat-cloud"): live})
    assert worlds.child(plan, "Deployment", "chat-cloud")["spec"]["replicas"] == 4


REMOTE = {"spec.devicePools": [REMOTE_POOL], "spec.cloud.service": {"type": "LoadBalancer"}}


def test_a_pool_elsewhere_waits_for_the_clouds_address() -> None:
    plan = worlds.planned(REMOTE, clusters={EDGE: RemoteCluster()})
    assert plan.remote == {EDGE: ()}
    assert not plan.is_complete(EDGE, ())
    assert plan.complete and plan.awaiting == {"orin"}, "one pool suspended all deletions"
    blocked = plan.pools[0].blocked
    assert blocked is not None and blocked.reason is Reason.AWAITING_ADDRESS
    assert ("ConfigMap", "chat-clusters") in worlds.kinds_and_names(plan.local)


def test_a_pool_elsewhere_has_no_owner_and_reaches_the_cloud_by_its_address() -> None:
    service = {"status": {"loadBalancer": {"ingress": [{"ip": "10.1.2.3"}]}}}
    wanted = worlds.parsed(REMOTE)
    plan = worlds.planned(
        REMOTE,
        clusters={EDGE: RemoteCluster()},
        objects={("Service", "chat-cloud-external"): service},
        identities=worlds.identities(wanted),
    )
    there = plan.remote[EDGE]
    extra = {("Secret", "chat-device-tls"), ("ConfigMap", "chat-device-orin-endpoints")}
    assert worlds.kinds_and_names(there) == device("DaemonSet", "orin") | extra
    assert all("ownerReferences" not in each["metadata"] for each in there)
    assert all(each["metadata"]["labels"][common.LABEL_TOPOLOGY_UID] == worlds.UID for each in there)
    data = {worlds.plain_name(each): each["data"] for each in there if each["kind"] == "ConfigMap"}
    config = json.loads(data["chat-device-orin"]["config.json"])
    assert config["cloudEndpoints"] == ["file:/etc/milliner-endpoints/endpoints"]
    assert data["chat-device-orin-endpoints"] == {"endpoints": "dns:10.1.2.3:50051\n"}
    pod = next(each for each in there if each["kind"] == "DaemonSet")["spec"]["template"]["spec"]
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each.get("configMap", {}).get("name") for each in pod["volumes"]}
    assert mounts["endpoints"] == "/etc/milliner-endpoints"
    assert volumes["endpoints"] == "chat-device-orin-endpoints"
    assert not any("device" in name for _, name in worlds.kinds_and_names(plan.local) if name != "chat-device-tls")


def test_a_cloud_that_moves_restarts_no_device_elsewhere() -> None:
    changes = {"spec.devicePools": [REMOTE_POOL], "spec.cloud.service": {"type": "NodePort"}}
    service = {"spec": {"ports": [{"nodePort": 30051}]}}
    found = []
    for hosts in (("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.3")):
        plan = worlds.planned(
            changes,
            clusters={EDGE: RemoteCluster()},
            objects={("Service", "chat-cloud-external"): service},
            node_addresses=hosts,
        )
        there = {(each["kind"], worlds.plain_name(each)): each for each in plan.remote[EDGE]}
        endpoints = there["ConfigMap", "chat-device-orin-endpoints"]["data"]["endpoints"]
        found.append((endpoints, there["DaemonSet", "chat-device-orin"]["spec"]["template"]))
    (before, template), (after, same) = found
    assert before == "dns:10.0.0.1:30051\ndns:10.0.0.2:30051\n"
    assert after == "dns:10.0.0.2:30051\ndns:10.0.0.3:30051\n"
    assert template == same


@pytest.mark.parametrize(("address", "endpoint"), [("10.0.0.1", "10.0.0.1"), ("2001:db8::1", "[2001:db8::1]")])
def test_an_address_of_ipv6_has_brackets_in_an_endpoint(address: str, endpoint: str) -> None:
    balancer = {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}
    ports = {"spec": {"ports": [{"nodePort": 30051}]}}
    for kind, service, port in (("LoadBalancer", balancer, 50051), ("NodePort", ports, 30051)):
        wanted = worlds.parsed({"spec.cloud.service": {"type": kind}})
        there = worlds.world(wanted, objects={("Service", "chat-cloud-external"): service}, node_addresses=(address,))
        assert planner.external_endpoints(wanted, there)[0] == (f"dns:{endpoint}:{port}",)


def test_a_cluster_that_no_pool_names_is_emptied_and_then_forgotten() -> None:
    left = {("DaemonSet", "chat-device-orin"): {"kind": "DaemonSet", "metadata": {"name": "chat-device-orin"}}}
    plan = worlds.planned(clusters={EDGE: RemoteCluster(left)})
    assert plan.complete and plan.remote == {EDGE: ()}
    assert ("ConfigMap", "chat-clusters") in worlds.kinds_and_names(plan.local)
    plan = worlds.planned(clusters={EDGE: RemoteCluster({})})
    assert ("ConfigMap", "chat-clusters") not in worlds.kinds_and_names(plan.local)


COMMITS: dict[str, Any] = {"modelCommit": "a" * 40, "drafterCommit": "b" * 40}


def test_both_tiers_fetch_the_commit_that_was_inspected() -> None:
    """A pod that started after an upload to the branch found other files than its peers."""
    changes = {
        "spec.model.source": "hf://org/name@main",
        "spec.strategy.hat": {"adapter": {"source": "hf://org/adapter"}},
    }
    line = worlds.facts_line(worlds.parsed(changes), **COMMITS)
    plan = worlds.planned(changes, line=line)
    cloud, device = (json.loads(worlds.child(plan, "ConfigMap", name)["data"]["config.json"]) for name in ROLES)
    assert cloud["model"]["source"] == device["model"]["source"] == f"hf://org/name@{'a' * 40}"
    assert device["strategy"]["adapterSource"] == f"hf://org/adapter@{'b' * 40}"
    unknown = worlds.planned(changes)
    (config,) = (json.loads(worlds.child(unknown, "ConfigMap", ROLES[0])["data"]["config.json"]),)
    assert config["model"]["source"] == "hf://org/name@main"


ROLES = ("chat-cloud", "chat-device-local")
