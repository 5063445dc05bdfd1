"""Pipeline stages in a cluster: a workload for each, edges from each to the next alone, one condition for all."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.unit.milliner_operator import worlds

from milliner.contract import names, role_config
from milliner_operator import certificates, leaves, plan, tiers
from milliner_operator.conditions import Reason, Type
from milliner_operator.observed import Sightings
from milliner_operator.seen import Seen

STAGES = {"spec.cloud.pipelineStages": 3, "spec.cloud.replicas": 2}
NAMES = ("chat-cloud", "chat-cloud-stage1", "chat-cloud-stage2")
ROLES = ("cloud", "cloud-stage1", "cloud-stage2")


def config(made: plan.Plan, name: str) -> role_config.CloudRoleConfig:
    text = worlds.child(made, "ConfigMap", name)["data"]["config.json"]
    return role_config.CloudRoleConfig.model_validate_json(text)


def callers(made: plan.Plan, name: str) -> list[str]:
    """The roles that may reach the gRPC port."""
    policy = worlds.child(made, "NetworkPolicy", name)["spec"]["ingress"][0]
    return [each["podSelector"]["matchLabels"][names.LABEL_ROLE] for each in policy["from"]]


def callees(made: plan.Plan, name: str) -> list[str]:
    rules = worlds.child(made, "NetworkPolicy", name)["spec"]["egress"]
    return [each["podSelector"]["matchLabels"][names.LABEL_ROLE] for rule in rules for each in rule.get("to", ())]


def test_each_stage_has_its_layers_and_knows_the_next() -> None:
    made = worlds.planned(STAGES)
    assert made.complete
    found = [config(made, name) for name in NAMES]
    assert [(each.stage, each.slice.start, each.slice.end) for each in found] == [(0, 2, 4), (1, 4, 6), (2, 6, 8)]
    following = [each.next_stage and (each.next_stage.endpoints, each.next_stage.chain_end) for each in found]
    hosts = [(f"dns:{name}.default.svc:50051",) for name in NAMES[1:]]
    assert following == [(hosts[0], 8), (hosts[1], 8), None]
    devices = json.loads(worlds.child(made, "ConfigMap", "chat-device-local")["data"]["config.json"])
    assert devices["cloudEndpoints"] == ["dns:chat-cloud.default.svc:50051"]


@pytest.mark.parametrize(("stages", "shares"), [(1, [96]), (2, [48, 48]), (4, [32, 32, 16, 16])])
def test_stages_share_the_memory_for_keys_by_their_layers(stages: int, shares: list[int]) -> None:
    engine = {"kvCacheMebibytes": 96}
    made = worlds.planned({"spec.cloud.pipelineStages": stages, "spec.cloud.engine": engine})
    found = [config(made, names.cloud_name("chat", stage=stage)).engine.kv_cache_bytes for stage in range(stages)]
    assert found == [share << 20 for share in shares]


def test_pods_of_one_stage_are_never_taken_for_anothers() -> None:
    made = worlds.planned(STAGES)
    for name, role in zip(NAMES, ROLES, strict=True):
        deployment = worlds.child(made, "Deployment", name)["spec"]
        pod = deployment["template"]["metadata"]["labels"]
        assert deployment["replicas"] == 2
        assert pod[names.LABEL_ROLE] == role
        container = deployment["template"]["spec"]["containers"][0]
        assert container["args"][0] == "cloud"  # the process is the same
        selectors = [
            deployment["selector"]["matchLabels"],
            worlds.child(made, "Service", name)["spec"]["selector"],
            worlds.child(made, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"],
        ]
        assert all(selector[names.LABEL_ROLE] == role for selector in selectors)
        assert all(selector.items() <= pod.items() for selector in selectors)


def test_only_the_stage_before_may_call() -> None:
    made = worlds.planned(STAGES)
    assert [callers(made, name) for name in NAMES] == [["device"], ["cloud"], ["cloud-stage1"]]
    assert [callees(made, name) for name in NAMES] == [["cloud-stage1"], ["cloud-stage2"], []]


def test_an_external_service_leads_to_the_first_stage_only() -> None:
    made = worlds.planned(STAGES | {"spec.cloud.service": {"type": "NodePort"}})
    assert "from" not in worlds.child(made, "NetworkPolicy", "chat-cloud")["spec"]["ingress"][0]
    assert callers(made, "chat-cloud-stage1") == ["cloud"]
    external = [each for each in worlds.kinds_and_names(made.local) if each[1].endswith("external")]
    assert external == [("Service", "chat-cloud-external")]


@pytest.mark.parametrize("stages", [1, 2])
def test_the_clouds_certificate_is_a_clients_too_where_stages_call_one_another(stages: int) -> None:
    wanted = worlds.parsed({"spec.cloud.pipelineStages": stages})
    sans = tiers.cloud_certificate_names(wanted)
    made = certificates.ensure(
        ca=None, cloud=None, device=None, topology="chat", cloud_names=sans, cloud_calls=stages > 1, now=worlds.NOW
    )
    leaf = x509.load_pem_x509_certificate(base64.b64decode(made.cloud["tls.crt"]))
    usages = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert (ExtendedKeyUsageOID.CLIENT_AUTH in usages) == (stages > 1)
    assert ExtendedKeyUsageOID.SERVER_AUTH in usages
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ("chat-cloud-stage1.default.svc" in found.get_values_for_type(x509.DNSName)) == (stages > 1)


def cloud_ready(made: plan.Plan, ready: dict[str, int]) -> Any:
    objects = {}
    for name, count in ready.items():
        workload = worlds.serving(worlds.child(made, "Deployment", name), ready=count)
        objects["Deployment", name] = workload
    seen = Seen("chat", 1, made, objects=objects, clusters={}, troubles={}, sightings=Sightings())
    return next(each for each in leaves.of(seen) if each.type is Type.CLOUD_READY)


def test_the_last_stage_that_is_not_ready_is_told() -> None:
    made = worlds.planned(STAGES)
    all_of_them = cloud_ready(made, dict.fromkeys(NAMES, 2))
    assert (all_of_them.status, all_of_them.reason) == (True, Reason.ALL_PODS_READY)
    lacking = cloud_ready(made, {NAMES[0]: 0, NAMES[1]: 1, NAMES[2]: 2})
    assert lacking.status is False
    assert lacking.message.startswith("chat-cloud-stage1: 1 of 2 ready")


def test_more_stages_than_layers_are_refused() -> None:
    condition = worlds.planned({"spec.cloud.pipelineStages": 7}).condition(Type.SPEC_VALID)
    assert condition is not None
    assert condition.message.startswith("cloud.pipelineStages is 7, the cloud has 6 of the model's layers: use 1 to 6")
