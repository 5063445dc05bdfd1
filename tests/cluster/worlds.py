"""A namespace with an operator of its own that watches it, at a real API server, and what tests ask of both.

The pods are those of tests/cluster/stand_in, which know no model: what is tested is the control plane alone. Needs an
image that the nodes have: `MILLINER_STAND_IN_IMAGE`.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable
from typing import Any

from tests.cluster import api_server, operator_process

from milliner.contract import facts
from milliner.contract import topology as spec_module

DEADLINE_S = 240.0  # arbitrary: far more than anything takes, as a busy machine is no fault
POLL_S = 0.5
PASSES = "milliner_operator_reconciles_total"
DIGEST = "sha256:" + "d" * 64  # as the stand-in has it
KINDS = {
    "deployments": "/apis/apps/v1",
    "daemonsets": "/apis/apps/v1",
    "services": "/api/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "serviceaccounts": "/api/v1",
    "pods": "/api/v1",
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "poddisruptionbudgets": "/apis/policy/v1",
    "horizontalpodautoscalers": "/apis/autoscaling/v2",
}


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """A namespace that enforces Pod Security `restricted`, and an operator that watches it."""

    server: api_server.ApiServer
    namespace: str
    operator: operator_process.OperatorProcess
    image: str

    def apply(self, name: str, **spec: Any) -> None:
        self.server.apply(api_server.topologies(self.namespace, name), document(name, **spec))

    def elsewhere(self, namespace: str, *, image: str = "") -> World:
        """Another namespace, with an operator of its own that does not run yet; `image`: that of its pods."""
        image = image or self.image
        operator = self.operator.another(namespace=namespace, image=image)
        return dataclasses.replace(self, namespace=namespace, operator=operator, image=image)

    def know(self, name: str, **spec: Any) -> None:
        """Stores the facts of a topology to be applied, as its inspect Job would find them out."""
        wanted = spec_module.parse(document(name, **spec))
        key = facts.key_of(wanted, runtime_image=self.image)
        found = facts.InspectedFacts(
            key=key, layers=8, hidden_size=64, digest=DIGEST, fingerprint="f", drafter_kind="adapter", drafter_split=2
        )
        labels = {"milliner.dev/topology": name, "app.kubernetes.io/managed-by": "milliner-operator"}
        at = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        data = {"facts.json": found.to_line(), "inspectedAt": at}
        metadata = {"name": f"{name}-facts", "labels": labels}
        stored = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
        self.server.request("POST", self.path("configmaps"), body=stored)

    def path(self, plural: str, name: str = "") -> str:
        """Path of an object of the namespace, or of all of a kind."""
        return f"{KINDS[plural]}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def topology(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.server.request("GET", api_server.topologies(self.namespace, name))
        return found

    def delete(self, name: str) -> None:
        self.server.request("DELETE", api_server.topologies(self.namespace, name))

    def condition(self, name: str, kind: str) -> tuple[str, str]:
        topology = self.topology(name)
        status = topology.get("status") or {}
        for each in status.get("conditions") or ():
            if each["type"] == kind and each["observedGeneration"] == topology["metadata"]["generation"]:
                return each["status"], each["reason"]
        return "", ""

    def until(self, what: Callable[[], bool], *, name: str = "", deadline_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + deadline_s
        while not what():
            self.operator.check()
            state = (self.topology(name).get("status") or {}).get("conditions") if name else ""
            assert time.monotonic() < deadline, f"not within {deadline_s} s: {state}\n{self.operator.log[-4000:]}"
            time.sleep(POLL_S)

    def until_condition(self, name: str, kind: str, *expected: str) -> None:
        self.until(lambda: self.condition(name, kind)[: len(expected)] == expected, name=name)

    def passes(self, name: str, count: int, *, deadline_s: float = DEADLINE_S) -> None:
        """Makes the operator look at a topology until it has made so many more passes: each change is one, though it
        is of an annotation only."""
        first = self.operator.metric(PASSES)

        def made() -> bool:
            body = {"metadata": {"annotations": {"tests": str(time.monotonic_ns())}}}
            path = api_server.topologies(self.namespace, name)
            self.server.request("PATCH", path, body=body, content_type=api_server.MERGE)
            return self.operator.metric(PASSES) >= first + count

        self.until(made, name=name, deadline_s=deadline_s)

    def children(self, topology: str) -> dict[str, dict[str, Any]]:
        """All objects with the topology's label, by kind and name."""
        found: dict[str, dict[str, Any]] = {}
        for plural in KINDS:
            labels = f"milliner.dev/topology={topology}"
            items = self.server.request("GET", self.path(plural), labelSelector=labels)["items"]
            found |= {f"{plural}/{each['metadata']['name']}": each for each in items}
        return found

    def versions(self, topology: str) -> dict[str, str]:
        return {name: each["metadata"]["resourceVersion"] for name, each in self.children(topology).items()}

    def uids(self, topology: str, part: str) -> set[str]:
        """Of the pods whose name holds `part`, without those that are ending: they drain for a while."""
        return {
            each["metadata"]["uid"]
            for name, each in self.children(topology).items()
            if name.startswith("pods/") and part in name and "deletionTimestamp" not in each["metadata"]
        }

    def events(self, name: str) -> list[dict[str, Any]]:
        """The Events about a topology, oldest first."""
        fields = f"involvedObject.kind=InferenceTopology,involvedObject.name={name}"
        path = f"/api/v1/namespaces/{self.namespace}/events"
        items = self.server.request("GET", path, fieldSelector=fields)["items"]
        return sorted(items, key=lambda each: int(each["metadata"]["resourceVersion"]))


def document(name: str, **spec: Any) -> dict[str, Any]:
    """A small topology; `spec` stands in for whole fields of its spec."""
    content = {
        "model": {"source": "builtin://demo"},
        "strategy": {"type": "Hat"},
        "devicePools": [{"name": "local", "replicas": 1}],
    }
    return {
        "apiVersion": "milliner.dev/v1alpha1",
        "kind": "InferenceTopology",
        "metadata": {"name": name},
        "spec": content | spec,
    }
