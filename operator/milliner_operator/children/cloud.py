"""The workload of the cloud tier, or of one of its pipeline stages: Deployment, disruption budget, autoscaler. Pure."""

from __future__ import annotations

from typing import Any

from milliner.contract import names
from milliner.contract.cloud import CloudSpec, Scaling
from milliner_operator import kinds
from milliner_operator.children import common, pod
from milliner_operator.settings import Settings


def ports() -> list[dict[str, Any]]:
    return [_port("grpc", common.GRPC_PORT), _port("metrics", common.HEALTH_PORT)]


def limits(cloud: CloudSpec) -> dict[str, str]:
    """The extended resource of the accelerator, if one is asked for."""
    return {} if cloud.accelerator is None else {cloud.accelerator.resource_name: str(cloud.accelerator.count)}


def deployment(
    scope: common.Scope, name: str, *, role: str, cloud: CloudSpec, template: dict[str, Any]
) -> dict[str, Any]:
    """The Deployment; without `replicas` where an autoscaler owns them."""
    spec = {
        "selector": {"matchLabels": names.labels(scope.topology, role=role)},
        "template": template,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling_update(cloud)},
        "progressDeadlineSeconds": cloud.rollout.progress_deadline_seconds,
        "revisionHistoryLimit": 3,
        "paused": False,  # by hand, a rollout would wait without a word
    }
    if cloud.scaling is None:
        spec["replicas"] = cloud.desired_replicas
    return common.manifest(scope, kinds.DEPLOYMENT, name, role=role, spec=spec)


def rolling_update(cloud: CloudSpec) -> dict[str, int]:
    """Without an accelerator one pod more stands in, so that a single replica is never away; accelerators are scarce:
    there a pod goes before its successor comes, unless `maxUnavailable` is 0."""
    unavailable = cloud.rollout.max_unavailable
    if cloud.accelerator is not None and unavailable > 0:
        return {"maxSurge": 0, "maxUnavailable": unavailable}
    return {"maxSurge": 1, "maxUnavailable": min(unavailable, max(0, cloud.desired_replicas - 1))}


def disruption_budget(scope: common.Scope, name: str, *, role: str) -> dict[str, Any]:
    """One pod at a time may be evicted."""
    selector = {"matchLabels": names.labels(scope.topology, role=role)}
    spec = {"maxUnavailable": 1, "selector": selector, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
    return common.manifest(scope, kinds.DISRUPTION_BUDGET, name, role=role, spec=spec)


def autoscaler(scope: common.Scope, name: str, *, role: str, scaling: Scaling) -> dict[str, Any]:
    """Scales the Deployment of the same name on CPU, or on queue time where the settings name its metric."""
    spec = {
        "scaleTargetRef": {"apiVersion": kinds.DEPLOYMENT.api_version, "kind": kinds.DEPLOYMENT.kind, "name": name},
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [_metric(scaling, scope.settings)],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_stabilization_seconds}},
    }
    return common.manifest(scope, kinds.AUTOSCALER, name, role=role, spec=spec)


def _metric(scaling: Scaling, settings: Settings) -> dict[str, Any]:
    if settings.queue_metric:
        target = {"type": "AverageValue", "averageValue": str(scaling.target_queue_milliseconds)}
        return {"type": "Pods", "pods": {"metric": {"name": settings.queue_metric}, "target": target}}
    target_cpu = {"type": "Utilization", "averageUtilization": scaling.target_cpu_percent}
    return {"type": "ContainerResource", "containerResource": _container_cpu(target_cpu)}


def _container_cpu(target: dict[str, Any]) -> dict[str, Any]:
    return {"name": "cpu", "container": pod.CONTAINER, "target": target}


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "containerPort": number, "protocol": "TCP"}
