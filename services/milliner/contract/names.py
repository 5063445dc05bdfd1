"""Group, kind, labels and names of everything that belongs to a topology: deterministic, at most 63 characters."""

from __future__ import annotations

import hashlib

GROUP = "milliner.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "InferenceTopology"
PLURAL = "inferencetopologies"
SINGULAR = "inferencetopology"
SHORT_NAME = "itopo"

LABEL_TOPOLOGY = f"{GROUP}/topology"
LABEL_ROLE = f"{GROUP}/role"
LABEL_POOL = f"{GROUP}/pool"
LABEL_REVISION = f"{GROUP}/revision"

ROLE_CLOUD = "cloud"
ROLE_DEVICE = "device"

MAX_NAME_CHARACTERS = 63  # a DNS label (RFC 1123), the narrowest of what Kubernetes asks for
_HASH_CHARACTERS = 8


def child_name(topology: str, *parts: str) -> str:
    """`chat-cloud`, `chat-device-orin`: the name of a child; a long one is cut and ends in a hash of the whole."""
    name = "-".join((topology, *parts))
    if len(name) <= MAX_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: MAX_NAME_CHARACTERS - _HASH_CHARACTERS - 1].rstrip('-')}-{digest}"


def cloud_name(topology: str, replica: int | None = None, *, stage: int = 0) -> str:
    """Name of the cloud role (`chat-cloud`), of a further pipeline stage (`chat-cloud-stage1`), or of one replica."""
    of_stage = [] if stage == 0 else [f"stage{stage}"]
    return child_name(topology, ROLE_CLOUD, *of_stage, *([] if replica is None else [str(replica)]))


def stage_role(stage: int) -> str:
    """The role of a pipeline stage's pods in labels: `cloud` for the first, which devices ask, `cloud-stage1`, …"""
    return ROLE_CLOUD if stage == 0 else f"{ROLE_CLOUD}-stage{stage}"


def device_name(topology: str, pool: str, replica: int | None = None) -> str:
    """Name of a device pool, or of one replica of it."""
    return child_name(topology, ROLE_DEVICE, pool, *([] if replica is None else [str(replica)]))


def labels(topology: str, *, role: str, pool: str | None = None) -> dict[str, str]:
    """The labels that select a role's pods; versions and revisions are never among them."""
    selected = {
        "app.kubernetes.io/name": "milliner",
        "app.kubernetes.io/instance": child_name(topology),
        "app.kubernetes.io/component": role,
        LABEL_TOPOLOGY: child_name(topology),
        LABEL_ROLE: role,
    }
    return selected if pool is None else {**selected, LABEL_POOL: pool}
