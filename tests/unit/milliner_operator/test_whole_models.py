"""Strategies over whole models in a cluster: the cloud's pods or none, pools with models of their own, what is told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.milliner_operator import test_status, worlds

from milliner.contract import facts, names, role_config
from milliner_operator import acceptance, inspection, models, observed, plan, planner, world
from milliner_operator.children import common, plain
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.observed import Answer, ClusterRef, Manifest, Ref, World
from milliner_operator.seen import Seen

PD_DEVICE: dict[str, Any] = {"spec.strategy": {"type": "PDDevice"}}
DEVICE_ONLY: dict[str, Any] = {"spec.strategy": {"type": "DeviceOnly"}}
CLOUD_ONLY: dict[str, Any] = {"spec.strategy": {"type": "CloudOnly"}}
SMALL = {"source": "hf://org/small@v1", "credentialsSecretRef": {"name": "hub", "key": "token"}}
POOLS = [
    {"name": "same", "replicas": 1},
    {"name": "small", "nodeSelector": {"class": "nano"}, "model": SMALL},
    {"name": "smaller", "model": {"source": "hf://org/small@v1", "servedName": "other"}},
]
OWN = PD_DEVICE | {"spec.devicePools": POOLS}
OWN_DIGEST, TOKENIZER = "sha256:" + "5" * 64, "sha256:" + "7" * 64


def line(changes: Mapping[str, Any], *, own: bool = False, **more: Any) -> str:
    """Good facts of a topology's model, or of the first one that a pool has of its own."""
    wanted = worlds.parsed(dict(changes))
    model = next(each.model for each in wanted.spec.device_pools if each.model is not None) if own else None
    key = inspection.key_of(wanted, scope=worlds.scope(), own=model)
    content: dict[str, Any] = {"drafterKind": None, "drafterSplit": None, "tokenizerDigest": TOKENIZER, "key": key}
    content |= {"layers": 4, "digest": OWN_DIGEST, "fingerprint": "f1"} if own else {}
    return worlds.facts_line(wanted, **content | more)


def objects_of(changes: Mapping[str, Any], *, own: str) -> dict[Ref, Manifest]:
    """The facts of a pool's own model, stored."""
    key = json.loads(own)["key"]
    stored = plain.facts_map(worlds.scope(), inspection.facts_name("chat", own_key=key), line=own, at=worlds.STAMP)
    return {observed.ref(stored): stored}


def planned(changes: Mapping[str, Any], *, own: str | None = None, **content: Any) -> plan.Plan:
    objects = objects_of(changes, own=own) if own else {}
    return worlds.planned(dict(changes), line=line(changes), objects=objects, **content)


def config(made: plan.Plan, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(worlds.child(made, "ConfigMap", name)["data"]["config.json"])
    return found


def told(made: plan.Plan, kind: Type) -> Condition:
    found = made.condition(kind)
    assert found is not None
    return found


CLOUD = {(kind, "chat-cloud") for kind in ("ServiceAccount", "ConfigMap", "Service", "NetworkPolicy", "Deployment")}
CLOUD |= {("PodDisruptionBudget", "chat-cloud")}
FACTS = {("ConfigMap", "chat-facts"), ("ConfigMap", "chat-accepted")}


def device(pool: str, kind: str = "Deployment", *, service: bool = True) -> set[tuple[str, str]]:
    kinds = ("ServiceAccount", "ConfigMap", "NetworkPolicy", kind, *(("Service",) if service else ()))
    return {(each, f"chat-device-{pool}") for each in kinds}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (PD_DEVICE, CLOUD | FACTS | device("local")),
        (
            PD_DEVICE | {"spec.cloud.scaling": {"maxReplicas": 3}, "spec.devicePools": [{"name": "orin"}]},
            CLOUD | FACTS | device("orin", "DaemonSet", service=False) | {("HorizontalPodAutoscaler", "chat-cloud")},
        ),
        (DEVICE_ONLY, FACTS | device("local")),
        (CLOUD_ONLY, CLOUD | FACTS | device("local")),
        (CLOUD_ONLY | {"spec.devicePools": []}, CLOUD | FACTS | device("gateway")),
    ],
    ids=["PDDevice", "scaled", "DeviceOnly", "CloudOnly", "CloudOnly without pools"],
)
def test_children_of_a_topology(changes: dict[str, Any], expected: set[tuple[str, str]]) -> None:
    made = planned(changes)
    assert worlds.kinds_and_names(made.local) == expected
    assert made.complete and made.split_layer is None


def test_both_tiers_of_a_handover_are_as_the_roles_read_them() -> None:
    options = {"type": "PDDevice", "pdDevice": {"scheduler": "SkipJoinMLFQ", "cloudTokens": {"max": 64}}}
    changes = {"spec.strategy": options}
    made = planned(changes, identities=worlds.identities(worlds.parsed(changes)))
    cloud = role_config.PrefillRoleConfig.model_validate_json(json.dumps(config(made, "chat-cloud")))
    one = role_config.WholeDeviceRoleConfig.model_validate_json(json.dumps(config(made, "chat-device-local")))
    assert (cloud.layers, cloud.scheduler.value, cloud.listen.port) == (8, "SkipJoinMLFQ", common.GRPC_PORT)
    assert one.cloud_endpoints == ("dns:chat-cloud.default.svc:50051",)
    assert (one.strategy.cloud_tokens.max, one.cloud_model_digest) == (64, worlds.DIGEST)
    for each in (cloud, one):
        assert each.tls is not None and each.tls.server_name == "chat-cloud.default.svc"
        assert each.model.fingerprint == "f00d" and each.health_port == 9090
    for name, runs in {"chat-cloud": "prefill", "chat-device-local": "whole-device"}.items():
        pod = worlds.child(made, "Deployment", name)["spec"]["template"]["spec"]
        assert pod["containers"][0]["args"][0] == runs
    policy = worlds.child(made, "NetworkPolicy", "chat-cloud")["spec"]
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"][names.LABEL_ROLE] == "device"


def test_devices_alone_have_nothing_of_a_cloud() -> None:
    made = planned(DEVICE_ONLY, identities=None)
    one = config(made, "chat-device-local")
    assert not one["cloudEndpoints"] and not {"tls", "cloudModelDigest"} & one.keys()
    (dns,) = worlds.child(made, "NetworkPolicy", "chat-device-local")["spec"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53, 5353}
    assert (told(made, Type.CLOUD_READY).status, told(made, Type.CLOUD_READY).reason) == (True, Reason.NO_CLOUD_NEEDED)
    assert made.condition(Type.TLS_READY) is None
    assert made.endpoint == "" and made.stages == ()


@pytest.mark.parametrize("mode", ["Managed", "CertManager"])
async def test_devices_alone_have_no_certificates(mode: str) -> None:
    tls = {"mode": mode} | ({"issuerRef": {"name": "ca"}} if mode == "CertManager" else {})
    wanted = worlds.parsed(DEVICE_ONLY | {"spec.tls": tls})
    known = worlds.world(wanted, line=line(DEVICE_ONLY))

    class NoApi:
        """Nothing is to be asked."""

    seen = await world.look(
        NoApi(),  # type: ignore[arg-type]
        wanted,
        scope=worlds.scope(),
        objects=known.objects,
        clusters={},
        now=worlds.NOW,
    )
    made = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert made.complete
    assert not [each for each in made.local if each["kind"] in ("Secret", "Certificate")]


def test_devices_alone_in_another_cluster_wait_for_no_address() -> None:
    pool = {"name": "orin", "clusterSecretRef": {"name": "edge"}}
    made = planned(DEVICE_ONLY | {"spec.devicePools": [pool]})
    there = made.remote[ClusterRef("edge", "kubeconfig")]
    assert worlds.kinds_and_names(there) == device("orin", "DaemonSet", service=False)
    assert made.complete and not made.awaiting


def test_models_of_pools_are_inspected_each_once_and_with_their_own_credentials() -> None:
    wanted = worlds.parsed(OWN)
    made = worlds.planned(OWN, line=line(OWN))
    (job,) = [each for each in made.local if each["kind"] == "Job"]
    assert job["metadata"]["name"] in inspection.job_names(wanted, scope=worlds.scope())
    asked = facts.InspectConfig.model_validate_json(json.dumps(config(made, job["metadata"]["name"])))
    assert (asked.model.source, asked.drafter_source) == ("hf://org/small@v1", None)
    secrets = [each["secret"]["secretName"] for each in job["spec"]["template"]["spec"]["volumes"] if "secret" in each]
    assert secrets == ["hub"]
    assert not made.complete and made.facts is None
    assert told(made, Type.MODEL_READY).status is None
    assert told(made, Type.MODEL_READY).message.startswith("model of pool small, smaller: ")


def test_a_pool_that_names_the_topologys_own_source_asks_nothing_more() -> None:
    """Two Jobs of one name would be written by turns."""
    pools = [{"name": "same", "replicas": 1, "model": {"source": "builtin://demo", "servedName": "another"}}]
    changes = PD_DEVICE | {"spec.devicePools": pools}
    first = planner.plan_topology(worlds.parsed(changes), scope=worlds.scope(), world=World(objects={}), now=worlds.NOW)
    assert [each["kind"] for each in first.local].count("Job") == 1
    made = planned(changes)
    assert made.complete
    assert config(made, "chat-device-same")["layers"] == 8
    assert [role.model_digest for role in made.pools] == [worlds.DIGEST]


def test_the_answer_about_a_pools_model_is_kept_beside_the_topologys() -> None:
    wanted, own = worlds.parsed(OWN), line(OWN, own=True)
    (_, name) = inspection.job_names(wanted, scope=worlds.scope())
    seen = worlds.world(
        wanted,
        line=line(OWN),
        inspect_answers={name: Answer(line=own, at=worlds.STAMP)},
        objects={("Job", name): {"kind": "Job"}},
    )
    made = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert made.complete and ("Job", name) in made.unwanted
    kept = [each for each in made.local if plain.FACTS_AT in each.get("data", {})]
    assert sorted(facts.parse_line(each["data"]["facts.json"]).layers for each in kept) == [4, 8]


def test_pools_with_models_of_their_own_have_these_and_expect_the_topologys_of_the_cloud() -> None:
    made = planned(OWN, own=line(OWN, own=True))
    assert made.complete
    same, small = config(made, "chat-device-same"), config(made, "chat-device-small")
    assert (same["layers"], small["layers"]) == (8, 4)
    assert small["model"]["source"] == "hf://org/small@v1"
    assert (small["model"]["digest"], small["model"]["fingerprint"]) == (OWN_DIGEST, "f1")
    smaller = config(made, "chat-device-smaller")
    assert small["model"]["credentialsFile"]
    assert not [each for each in (same, smaller) if "credentialsFile" in each["model"]], "each its own, or none"
    assert {same["cloudModelDigest"], small["cloudModelDigest"]} == {worlds.DIGEST}
    ports = {
        port["port"]
        for rule in worlds.child(made, "NetworkPolicy", "chat-device-small")["spec"]["egress"]
        for port in rule.get("ports", ())
    }
    assert 443 in ports, "its model is fetched"
    assert [role.model_digest for role in made.pools] == [None, OWN_DIGEST, OWN_DIGEST]


def test_another_tokenizer_is_refused_with_both_digests() -> None:
    other = "sha256:" + "8" * 64
    made = planned(OWN, own=line(OWN, own=True, tokenizerDigest=other))
    found = told(made, Type.SPEC_VALID)
    assert (found.status, found.reason) == (False, Reason.SPEC_INVALID)
    assert TOKENIZER in found.message and other in found.message and "pool small" in found.message
    assert not any(each["kind"] == "Deployment" for each in made.local)


def test_a_pin_of_a_pools_own_model_is_held_to_its_files() -> None:
    pools = [{"name": "small", "model": SMALL | {"digest": "sha256:" + "0" * 64}}]
    changes = PD_DEVICE | {"spec.devicePools": pools}
    made = planned(changes, own=line(changes, own=True))
    found = told(made, Type.MODEL_READY)
    assert found.reason is Reason.MODEL_DIGEST_MISMATCH
    assert found.message.startswith("pool small: model.digest is sha256:000") and OWN_DIGEST in found.message


def test_a_spec_with_models_of_pools_stands_while_the_next_is_refused() -> None:
    made = planned(OWN, own=line(OWN, own=True))
    accepted = acceptance.stored(
        worlds.document(OWN), {observed.ref(each): each for each in made.local}, uid=worlds.UID
    )
    assert accepted is not None
    there = World(objects=accepted.objects({}, scope=worlds.scope()))
    standing = planner.plan_topology(accepted.wanted, scope=worlds.scope(), world=there, now=worlds.NOW)
    assert [role.revision for role in standing.roles] == [role.revision for role in made.roles]
    found = acceptance.meanwhile(plan.Plan(), standing, tls_changes=False)
    assert not [each for each in found.local if plain.FACTS_AT in each.get("data", {})]


def test_a_source_that_no_pod_has_is_refused_by_the_pools_field() -> None:
    made = worlds.planned(PD_DEVICE | {"spec.devicePools": [{"name": "p", "model": {"source": "file:///m"}}]})
    assert "devicePools[0].model.source is file:///m" in told(made, Type.SPEC_VALID).message


def test_facts_of_models_are_read_in_order() -> None:
    wanted = worlds.parsed(OWN)
    seen = worlds.world(wanted, line=line(OWN), objects=objects_of(OWN, own=line(OWN, own=True)))
    found = models.look(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    assert found.model.digest == worlds.DIGEST
    assert {pool: each.digest for pool, each in found.of_pools.items()} == {"small": OWN_DIGEST, "smaller": OWN_DIGEST}


# -- what is told --------------------------------------------------------------------------------------------------


def serving(changes: Mapping[str, Any], **probes: observed.Probe) -> Seen:
    """A topology whose workloads are brought about; its pools' probes answered so."""
    made = planned(changes, own=line(changes, own=True) if changes is OWN else None)
    objects = {
        observed.ref(each): worlds.serving(each) if each["kind"] in ("Deployment", "DaemonSet") else each
        for each in made.local
    }
    sightings = observed.Sightings(probes=probes)
    return Seen(
        topology="chat", generation=1, plan=made, objects=objects, clusters={}, troubles={}, sightings=sightings
    )


def test_devices_alone_are_ready_without_a_cloud() -> None:
    document = test_status.built(serving(DEVICE_ONLY, local=test_status.GOOD))
    assert test_status.condition(document) == ("True", "AllRolesReady")
    assert test_status.condition(document, "CloudReady") == ("True", "NoCloudNeeded")
    assert document["summary"] == {"cloud": "-", "devices": "1/1"}
    assert "cloud" not in document


def test_devices_alone_that_answer_nothing_are_not_ready() -> None:
    document = test_status.built(serving(DEVICE_ONLY, local=observed.Probe(ok=False, reason="out of memory")))
    assert test_status.condition(document) == ("False", "StreamProbeFailed")


def test_devices_that_answer_without_their_cloud_leave_the_topology_degraded() -> None:
    seen = serving(PD_DEVICE, local=observed.Probe(ok=False, reason="no cloud replica answers"))
    cloud = seen.objects["Deployment", "chat-cloud"]
    away = dataclasses.replace(seen, objects={**seen.objects, observed.ref(cloud): worlds.serving(cloud, ready=0)})
    document = test_status.built(away)
    assert test_status.condition(document) == test_status.condition(document, "CloudReady") == ("False", "PodsNotReady")
    assert test_status.condition(document, "DevicesReady")[0] == "True"
    assert test_status.condition(document, "Degraded") == ("True", "PodsNotReady")


def test_each_pool_is_held_to_its_own_models_digest() -> None:
    own = dataclasses.replace(test_status.GOOD, model_digest=OWN_DIGEST)
    document = test_status.built(serving(OWN, same=test_status.GOOD, small=own, smaller=own))
    assert test_status.condition(document) == ("True", "AllRolesReady")
    assert [pool.get("modelDigest") for pool in document["devicePools"]] == [None, OWN_DIGEST, OWN_DIGEST]
    assert "splitLayer" not in document["model"]
    mixed_up = test_status.built(serving(OWN, same=own, small=own, smaller=own))
    assert test_status.condition(mixed_up) == ("False", "ModelDigestMismatch")
