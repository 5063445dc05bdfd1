"""Pod templates of all roles: hardened as Pod Security `restricted` asks, with configuration, certificates and files
mounted at fixed places. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from milliner.contract import names, quantities
from milliner.contract.cloud import LOADING_SECONDS
from milliner.contract.pod import PodOptions
from milliner_operator.children import common
from milliner_operator.children.files import CACHE_DIR, CLAIMS_DIR, CREDENTIALS_DIR

CONFIG_DIR = "/etc/milliner"
CONFIG_KEY = "config.json"
CONFIG_VOLUME = "config"
# Of devices of another cluster: where the cloud is may change without a new revision.
ENDPOINTS_DIR = "/etc/milliner-endpoints"
ENDPOINTS_KEY = "endpoints"
TLS_DIR = "/etc/milliner-tls"
KEYS_DIR = "/etc/milliner-keys"
ENGINE_KEY_DIR = "/etc/milliner-engine"  # of the server that takes the cloud's place
ENGINE_KEY_FILE = f"{ENGINE_KEY_DIR}/key"
CONTAINER = "milliner"
_USER = 65532  # "nonroot" of the distroless images; the image has an entry for it in its passwd file
# Small on purpose, so that a laptop's cluster takes a topology; CPU autoscaling needs a request to relate to.
_DEFAULT_REQUESTS = {"cpu": "100m", "memory": "256Mi"}
# Answered from memory. Short where somebody waits for the answer: Ready comes by that much sooner.
_STARTUP_S, _READINESS_S, _LIVENESS_S = 1, 2, 5
_FORGOTTEN_S = 5  # endpoints need about that long to forget a pod that ends
_ENDING_S = 10  # arbitrary: for a role to end when it has drained, with its last traces sent to a slow receiver


@dataclasses.dataclass(frozen=True, slots=True)
class PodShape:
    """What differs between the pods of two roles."""

    role: str
    config_map: str
    service_account: str
    options: PodOptions
    endpoints_map: str | None = None
    pool: str | None = None
    ports: Sequence[dict[str, Any]] = ()
    runs: str = ""  # the process's role where that is not `role`
    serves: bool = True  # has probes; an inspect Job has not
    fetches: bool = False  # reads sources over the network
    limits: dict[str, str] = dataclasses.field(default_factory=dict)
    node_selector: dict[str, str] = dataclasses.field(default_factory=dict)
    tolerations: Sequence[dict[str, Any]] = ()
    claims: Sequence[str] = ()
    tls_secret: str | None = None
    keys_secret: str | None = None
    credentials: tuple[str, str] | None = None  # Secret's name and key
    engine_key: tuple[str, str] | None = None  # the same, for the server that takes the cloud's place
    spread: bool = False
    grace_s: int = 30


def grace_s(drain_s: int) -> int:
    """The grace period of a pod whose role may let run for so long what runs."""
    return drain_s + _FORGOTTEN_S + _ENDING_S


def template(scope: common.Scope, shape: PodShape) -> dict[str, Any]:
    """The pod template without a revision; `revision.stamp` adds that."""
    return {
        "metadata": {"labels": common.labels(scope, role=shape.role, pool=shape.pool)},
        "spec": _without_empty(
            {
                "serviceAccountName": shape.service_account,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "terminationGracePeriodSeconds": shape.grace_s,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": _USER,
                    "runAsGroup": _USER,
                    "fsGroup": _USER,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "imagePullSecrets": [{"name": name} for name in scope.settings.image_pull_secrets],
                "nodeSelector": {**shape.node_selector, **shape.options.node_selector},
                "tolerations": [*shape.tolerations, *(each.document() for each in shape.options.tolerations)],
                "affinity": shape.options.affinity,
                "runtimeClassName": shape.options.runtime_class_name,
                "priorityClassName": shape.options.priority_class_name,
                "topologySpreadConstraints": [_spread(scope, shape)] if shape.spread else [],
                "containers": [_container(scope, shape)],
                "volumes": _volumes(shape),
            }
        ),
    }


def _container(scope: common.Scope, shape: PodShape) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": CONTAINER,
        "image": scope.settings.runtime_image,
        "imagePullPolicy": scope.settings.image_pull_policy,
        "command": ["python", "-m", "milliner.roles"],
        "args": [shape.runs or shape.role, "--config", f"{CONFIG_DIR}/{CONFIG_KEY}"],
        "env": [
            {"name": "HOME", "value": "/tmp"},
            {"name": "MILLINER_LOG_LEVEL", "value": scope.settings.runtime_log_level},
            _downward("MILLINER_NAME", "metadata.name"),
            _downward("MILLINER_REVISION", f"metadata.labels['{names.LABEL_REVISION}']"),
            *({"name": name, "value": value} for name, value in _variables(scope, shape).items()),
        ],
        "ports": list(shape.ports),
        "resources": _without_empty(
            {
                "requests": _requests(shape),
                "limits": {**shape.options.resources.limits, **shape.limits},
            }
        ),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(shape),
        "terminationMessagePolicy": "FallbackToLogsOnError" if shape.serves else "File",
    }
    if shape.serves:
        content |= {
            "startupProbe": _probe("/healthz", period_s=_STARTUP_S, failures=LOADING_SECONDS // _STARTUP_S),
            "livenessProbe": _probe("/healthz", period_s=_LIVENESS_S, failures=6),
            "readinessProbe": _probe("/readyz", period_s=_READINESS_S, failures=3),
            "lifecycle": {"preStop": {"sleep": {"seconds": _FORGOTTEN_S}}},
        }
    return _without_empty(content)


def _requests(shape: PodShape) -> dict[str, str]:
    """The requests that were set, and a default for each other: no larger than the limit, or the API server refuses the
    pod; never none, or an autoscaler by CPU has nothing to relate to."""
    limits = shape.options.resources.limits
    defaults = {
        name: min(limits.get(name, amount), amount, key=quantities.value) for name, amount in _DEFAULT_REQUESTS.items()
    }
    return defaults | shape.options.resources.requests


def _variables(scope: common.Scope, shape: PodShape) -> dict[str, str]:
    found = dict(scope.settings.outside.variables) if shape.fetches else {}
    return found | {"NVIDIA_VISIBLE_DEVICES": "all"} if _sees_gpus_by_runtime(shape) else found


def _sees_gpus_by_runtime(shape: PodShape) -> bool:
    """Whether the GPU comes of the RuntimeClass alone, as on a Jetson without a device plugin: NVIDIA's runtime shows
    those that this variable names, and none without it. Where an extended resource is asked for, a plugin decides."""
    resources = shape.options.resources
    asked = {*resources.requests, *resources.limits, *shape.limits}
    return shape.serves and bool(shape.options.runtime_class_name) and not any("/" in name for name in asked)


def _downward(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _probe(path: str, *, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": common.HEALTH_PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _spread(scope: common.Scope, shape: PodShape) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": names.labels(scope.topology, role=shape.role, pool=shape.pool)},
    }


def _mounts(shape: PodShape) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": CONFIG_VOLUME, "mountPath": CONFIG_DIR, "readOnly": True},
        {"name": "cache", "mountPath": CACHE_DIR},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if shape.endpoints_map:
        found.append({"name": "endpoints", "mountPath": ENDPOINTS_DIR, "readOnly": True})
    if shape.tls_secret:
        found.append({"name": "tls", "mountPath": TLS_DIR, "readOnly": True})
    if shape.keys_secret:
        found.append({"name": "keys", "mountPath": KEYS_DIR, "readOnly": True})
    if shape.credentials:
        found.append({"name": "credentials", "mountPath": CREDENTIALS_DIR, "readOnly": True})
    if shape.engine_key:
        found.append({"name": "engine-key", "mountPath": ENGINE_KEY_DIR, "readOnly": True})
    return found + [
        {"name": f"claim-{index}", "mountPath": f"{CLAIMS_DIR}/{claim}", "readOnly": True}
        for index, claim in enumerate(shape.claims)
    ]


def _volumes(shape: PodShape) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": CONFIG_VOLUME, "configMap": {"name": shape.config_map}},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if shape.endpoints_map:
        found.append({"name": "endpoints", "configMap": {"name": shape.endpoints_map}})
    if shape.tls_secret:
        found.append({"name": "tls", "secret": {"secretName": shape.tls_secret, "defaultMode": 0o440}})
    if shape.keys_secret:
        found.append({"name": "keys", "secret": {"secretName": shape.keys_secret, "defaultMode": 0o440}})
    if shape.credentials:
        found.append(_secret_file("credentials", shape.credentials, path="token"))
    if shape.engine_key:
        found.append(_secret_file("engine-key", shape.engine_key, path="key"))
    return found + [
        {"name": f"claim-{index}", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for index, claim in enumerate(shape.claims)
    ]


def _secret_file(volume: str, secret: tuple[str, str], *, path: str) -> dict[str, Any]:
    """A volume with one key of a Secret, as a file."""
    name, key = secret
    items = [{"key": key, "path": path}]
    return {"name": volume, "secret": {"secretName": name, "items": items, "defaultMode": 0o440}}


def _without_empty(content: dict[str, Any]) -> dict[str, Any]:
    """Without empty lists, mappings and texts: the API server would not keep them, and would not compare equal."""
    return {key: value for key, value in content.items() if value not in ("", [], {})}
