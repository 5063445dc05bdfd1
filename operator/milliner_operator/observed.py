"""What was seen of the world, as values: the planner takes a `World`, the status takes that and `Sightings`.

Objects stay the API server's own documents (`Manifest`); the readers below are the only ones that know their shape.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from milliner_operator.certificates import Identities
from milliner_operator.conditions import Reason

Manifest = dict[str, Any]
Ref = tuple[str, str]  # kind, name


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class ClusterRef:
    """The Secret that holds another cluster's kubeconfig."""

    secret: str
    key: str


@dataclasses.dataclass(frozen=True, slots=True)
class RemoteCluster:
    """What was seen of another cluster; `error` says why nothing was. One that is `given_up` has no credentials any
    more and no pool that names it: what is there stays."""

    objects: Mapping[Ref, Manifest] = dataclasses.field(default_factory=dict)
    error: str = ""
    given_up: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An inspect Job's termination message, and when its container ended (RFC 3339)."""

    line: str
    at: str


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """Why pods of a role are not ready."""

    reason: Reason
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What the planner decides from; `objects` are this cluster's children of the topology."""

    objects: Mapping[Ref, Manifest]
    identities: Identities | None = None  # of the operator's own CA; None with another tls.mode
    certificates_error: str = ""  # why the API server has no Certificates for cert-manager
    inspect_answers: Mapping[str, Answer] = dataclasses.field(default_factory=dict)  # by Job
    inspect_troubles: Mapping[str, Trouble] = dataclasses.field(default_factory=dict)  # why a Job's pod does not run
    node_addresses: tuple[str, ...] = ()  # of nodes that run cloud pods, for NodePort Services
    clusters: Mapping[ClusterRef, RemoteCluster] = dataclasses.field(default_factory=dict)

    def get(self, kind: str, name: str) -> Manifest | None:
        return self.objects.get((kind, name))


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A device's last hidden-state round trip, or why there is none."""

    ok: bool
    reason: str
    field: str = ""  # of the topology, that the reason is about
    model_digest: str = ""
    round_trip_us: int = 0
    ttft_ms: int = 0
    tokens_per_second: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Sightings:
    """What only the status needs: troubles by role's object, the best probe of each pool, and the DaemonSets of which
    a pod is stuck: unlike Deployments they have no deadline of their own."""

    troubles: Mapping[Ref, Trouble] = dataclasses.field(default_factory=dict)
    probes: Mapping[str, Probe] = dataclasses.field(default_factory=dict)
    stuck: frozenset[Ref] = frozenset()


def ref(manifest: Mapping[str, Any]) -> Ref:
    return manifest["kind"], manifest["metadata"]["name"]


def by_ref(manifests: Sequence[Manifest]) -> dict[Ref, Manifest]:
    return {ref(each): each for each in manifests}


def controller_uid(manifest: Mapping[str, Any]) -> str:
    """The uid of the object's controller, or ''."""
    owners = manifest["metadata"].get("ownerReferences") or []
    return next((str(each["uid"]) for each in owners if each.get("controller")), "")


def stamp(time: datetime.datetime) -> str:
    """A time in UTC as the API server writes it; such texts are in the order of their times."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def not_before_creation(manifest: Mapping[str, Any], time: str | None) -> str:
    """A time that a node has written (RFC 3339, UTC), but not before the API server's own of the object's creation, or
    that where there is none: boards without a clock come up in 1970."""
    return max(str(time or ""), str(manifest["metadata"].get("creationTimestamp") or ""))


def condition(manifest: Mapping[str, Any] | None, kind: str) -> Mapping[str, Any]:
    """A condition of an object's status by type; empty when it has none such."""
    found = ((manifest or {}).get("status") or {}).get("conditions") or []
    return next((each for each in found if each.get("type") == kind), {})
