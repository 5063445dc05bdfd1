"""What every child has in common: where it belongs, labels, owner. Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from milliner.contract import devices, names
from milliner_operator.kinds import Kind
from milliner_operator.settings import Settings

MANAGED_BY = "milliner-operator"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
# Ownership without a controller: in another cluster, where no owner reference reaches, and of what others may control.
LABEL_TOPOLOGY_UID = f"{names.GROUP}/topology-uid"

ROLE_INSPECT = "inspect"
ROLE_SHARED = "shared"  # of no role: facts, list of clusters
ROLE_TLS = "tls"  # of no role: CA and certificates

GRPC_PORT = 50051
HEALTH_PORT = devices.HEALTH_PORT  # never exposed by a Service


@dataclasses.dataclass(frozen=True, slots=True)
class Scope:
    """The topology that children are built for, and the cluster they go to."""

    topology: str
    namespace: str
    uid: str
    settings: Settings
    remote: bool = False  # another cluster than the topology's


def selector(topology: str) -> str:
    """Label selector of all children of a topology."""
    return f"{names.LABEL_TOPOLOGY}={names.child_name(topology)},{LABEL_MANAGED_BY}={MANAGED_BY}"


def role_selector(topology: str, *, role: str, pool: str | None = None, revision: str = "") -> str:
    """Label selector of a role's pods, of one revision if given."""
    parts = [f"{names.LABEL_TOPOLOGY}={names.child_name(topology)}", f"{names.LABEL_ROLE}={role}"]
    parts += [f"{names.LABEL_POOL}={pool}"] if pool else []
    parts += [f"{names.LABEL_REVISION}={revision}"] if revision else []
    return ",".join(parts)


def labels(scope: Scope, *, role: str, pool: str | None = None) -> dict[str, str]:
    """All labels of a child or pod; more than its selector has."""
    found = names.labels(scope.topology, role=role, pool=pool) | {
        LABEL_MANAGED_BY: MANAGED_BY,
        "app.kubernetes.io/part-of": "milliner",
        "app.kubernetes.io/version": scope.settings.version,
    }
    return found | {LABEL_TOPOLOGY_UID: scope.uid} if scope.remote else found


def manifest(
    scope: Scope, kind: Kind, name: str, *, role: str, pool: str | None = None, **content: Any
) -> dict[str, Any]:
    """A child's manifest: head, and `content` (spec, data, ...) as it is."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": scope.namespace,
        "labels": labels(scope, role=role, pool=pool),
    }
    if not scope.remote:
        metadata["ownerReferences"] = [owner_reference(scope) | {"controller": True}]
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **content}


def owner_reference(scope: Scope) -> dict[str, Any]:
    """What makes the garbage collector delete an object with the topology."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": scope.topology,
        "uid": scope.uid,
        "blockOwnerDeletion": True,
    }
