"""Topologies, facts and workloads that tests of the operator start from."""

from __future__ import annotations

import datetime
import json
from typing import Any

from tests.unit.milliner.contract import documents_of

from milliner.contract import names, topology
from milliner_operator import certificates, inspection, plan, planner, tiers
from milliner_operator.children import common, plain
from milliner_operator.observed import Answer, Manifest, World
from milliner_operator.settings import Settings

NOW = datetime.datetime(2026, 11, 21, 12, 0, tzinfo=datetime.UTC)
STAMP = "2026-11-21T12:00:00Z"
DIGEST = "sha256:" + "d" * 64
UID = "uid-topology"
SETTINGS = Settings(runtime_image="registry.example/milliner/runtime:1.2.3")


def document(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A topology as the API server has it; pools are emulated devices unless changed."""
    found = documents_of.changed({"spec.devicePools": [{"name": "local", "replicas": 1}]} | (changes or {}))
    found["metadata"] |= {"namespace": "default", "uid": UID}
    return found


def parsed(changes: dict[str, Any] | None = None) -> topology.InferenceTopology:
    return topology.parse(document(changes))


def scope(settings: Settings = SETTINGS) -> common.Scope:
    return common.Scope(topology="chat", namespace="default", uid=UID, settings=settings)


def facts_line(wanted: topology.InferenceTopology, *, at: common.Scope | None = None, **changes: Any) -> str:
    """A good answer to the question of `wanted`, changed."""
    key = inspection.key_of(wanted, scope=at or scope())
    content = {"schema": 1, "key": key, "layers": 8, "hiddenSize": 64, "dtype": "Float32"}
    content |= {"digest": DIGEST, "fingerprint": "f00d", "drafterKind": "adapter", "drafterSplit": 2}
    return json.dumps(content | changes)


def identities(wanted: topology.InferenceTopology) -> certificates.Identities:
    hosts = tiers.cloud_certificate_names(wanted)
    return certificates.ensure(ca=None, cloud=None, device=None, topology="chat", cloud_names=hosts, now=NOW)


def world(wanted: topology.InferenceTopology, *, line: str | None = None, **content: Any) -> World:
    """A world in which the facts are known and nothing else is there."""
    stored = plain.facts_map(scope(), inspection.facts_name(wanted.name), line=line or facts_line(wanted), at=STAMP)
    return World(objects={("ConfigMap", "chat-facts"): stored} | content.pop("objects", {}), **content)


def planned(changes: dict[str, Any] | None = None, *, line: str | None = None, **content: Any) -> plan.Plan:
    """The plan of the topology so changed, with known facts."""
    wanted = parsed(changes)
    return planner.plan_topology(wanted, scope=scope(), world=world(wanted, line=line, **content), now=NOW)


def answered(wanted: topology.InferenceTopology, **changes: Any) -> Answer:
    return Answer(line=facts_line(wanted, **changes), at=STAMP)


def child(plan: plan.Plan, kind: str, name: str) -> Manifest:
    return next(each for each in plan.local if (each["kind"], plain_name(each)) == (kind, name))


def plain_name(manifest: Manifest) -> str:
    """An object's name without its revision."""
    metadata = manifest["metadata"]
    return str(metadata["name"]).removesuffix(f"-{metadata['labels'].get(names.LABEL_REVISION)}")


def kinds_and_names(manifests: Any) -> set[tuple[str, str]]:
    """Kinds and plain names."""
    return {(each["kind"], plain_name(each)) for each in manifests}


def serving(workload: Manifest, *, ready: int | None = None, updated: int | None = None) -> Manifest:
    """A workload whose controller has brought everything about, or as much as is said."""
    replicas = workload["spec"].get("replicas", 1)
    have, new = replicas if ready is None else ready, replicas if updated is None else updated
    status: dict[str, Any] = {"observedGeneration": workload["metadata"].get("generation", 1)}
    if workload["kind"] == "DaemonSet":
        status |= {"desiredNumberScheduled": replicas, "updatedNumberScheduled": new, "numberReady": have}
        status |= {"currentNumberScheduled": replicas}
    else:
        status |= {"replicas": replicas, "updatedReplicas": new, "readyReplicas": have}
        status["conditions"] = [{"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"}]
    return {**workload, "status": status}
