"""A device pool's workload: a DaemonSet over the matching nodes, or a Deployment where `replicas` is given. Pure."""

from __future__ import annotations

from typing import Any

from milliner.contract import kinds as spec_kinds
from milliner.contract import names
from milliner.contract.devices import DevicePool
from milliner_operator import kinds
from milliner_operator.children import common

_UNREACHABLE = ("node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready")


def exposure(pool: DevicePool) -> spec_kinds.ApiExposure:
    """How the API is reached: HostPort is for one pod per real device; replicas and emulated devices get a Service,
    because two of them may share a node and Pod Security `restricted` forbids host ports."""
    shares_nodes = pool.replicas is not None or pool.emulation is not None
    if pool.api.exposure is spec_kinds.ApiExposure.HOST_PORT and shares_nodes:
        return spec_kinds.ApiExposure.SERVICE
    return pool.api.exposure


def ports(pool: DevicePool) -> list[dict[str, Any]]:
    api: dict[str, Any] = {"name": "http", "containerPort": pool.api.port, "protocol": "TCP"}
    if exposure(pool) is spec_kinds.ApiExposure.HOST_PORT:
        api["hostPort"] = pool.api.port
    return [api, {"name": "metrics", "containerPort": common.HEALTH_PORT, "protocol": "TCP"}]


def tolerations(pool: DevicePool) -> list[dict[str, Any]]:
    """Real devices go offline and come back: their pods stay where they are, without end. Of every effect: a DaemonSet
    does not count a node with a taint NoSchedule as one of its own, and nobody would miss the device."""
    if pool.emulation is not None:
        return []
    return [{"key": key, "operator": "Exists"} for key in _UNREACHABLE]


def workload(scope: common.Scope, name: str, *, pool: DevicePool, template: dict[str, Any]) -> dict[str, Any]:
    """Deployment or DaemonSet; as many pods at a time are replaced as the pool's rollout says."""
    spec: dict[str, Any] = {
        "selector": {"matchLabels": names.labels(scope.topology, role=names.ROLE_DEVICE, pool=pool.name)},
        "template": template,
        "revisionHistoryLimit": 3,
    }
    if pool.replicas is None:
        spec["updateStrategy"] = {"type": "RollingUpdate", "rollingUpdate": _in_place(pool)}
        return common.manifest(scope, kinds.DAEMON_SET, name, role=names.ROLE_DEVICE, pool=pool.name, spec=spec)
    surge = {"maxSurge": 1, "maxUnavailable": 0} if pool.emulation else _in_place(pool)
    spec |= {"replicas": pool.replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": surge}}
    spec |= {"progressDeadlineSeconds": pool.rollout.progress_deadline_seconds, "paused": False}
    return common.manifest(scope, kinds.DEPLOYMENT, name, role=names.ROLE_DEVICE, pool=pool.name, spec=spec)


def _in_place(pool: DevicePool) -> dict[str, Any]:
    """A device has room for one pod: the old one goes first."""
    most = pool.rollout.max_unavailable
    return {"maxSurge": 0, "maxUnavailable": int(most) if most.isdecimal() else most}
