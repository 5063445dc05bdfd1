"""Autoscalers: what they are told, and how the status tells whether they can do it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import leaves, planner
from milliner_operator.conditions import Condition, Reason
from milliner_operator.observed import Manifest, Ref, Sightings
from milliner_operator.seen import Seen

SCALING = {"spec.cloud.scaling": {"maxReplicas": 4, "targetCpuPercent": 150, "scaleDownStabilizationSeconds": 0}}
ACTIVE = {"type": "ScalingActive", "status": "True", "reason": "ValidMetricFound", "message": "fine"}
LACKING = {"type": "ScalingActive", "status": "False", "reason": "FailedGetPodsMetric", "message": "no metrics"}
NAMES = ("chat-cloud", "chat-cloud-stage1")


def test_an_autoscaler_aims_at_cpu_as_the_topology_says() -> None:
    spec = worlds.child(worlds.planned(SCALING), "HorizontalPodAutoscaler", "chat-cloud")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 4)
    [metric] = spec["metrics"]
    assert metric["containerResource"]["target"] == {"type": "Utilization", "averageUtilization": 150}
    assert spec["behavior"]["scaleDown"] == {"stabilizationWindowSeconds": 0}


def test_with_a_metric_for_it_an_autoscaler_aims_at_queue_time() -> None:
    settings = dataclasses.replace(worlds.SETTINGS, queue_metric="milliner_queue_milliseconds")
    wanted = worlds.parsed(SCALING)
    scope = worlds.scope(settings)
    made = planner.plan_topology(wanted, scope=scope, world=worlds.world(wanted), now=worlds.NOW)
    [metric] = worlds.child(made, "HorizontalPodAutoscaler", "chat-cloud")["spec"]["metrics"]
    assert metric["pods"] == {
        "metric": {"name": "milliner_queue_milliseconds"},
        "target": {"type": "AverageValue", "averageValue": "20"},
    }


def scaling_ready(*conditions: dict[str, Any] | None) -> Condition | None:
    """ScalingReady where the autoscalers of the stages say so; None: it has said nothing yet."""
    made = worlds.planned(SCALING | {"spec.cloud.pipelineStages": len(conditions)})
    objects: dict[Ref, Manifest] = {}
    for name, said in zip(NAMES, conditions, strict=False):
        autoscaler = worlds.child(made, "HorizontalPodAutoscaler", name)
        objects["HorizontalPodAutoscaler", name] = autoscaler | {"status": {"conditions": [said] if said else []}}
    return leaves.scaling(Seen("chat", 1, made, objects=objects, clusters={}, troubles={}, sightings=Sightings()))


@pytest.mark.parametrize(
    ("conditions", "status", "reason", "message"),
    [
        ((ACTIVE,), True, Reason.METRIC_AVAILABLE, "fine"),
        ((None,), None, Reason.RECONCILING, "chat-cloud: the autoscaler has not looked yet"),
        ((LACKING,), False, Reason.METRIC_MISSING, "chat-cloud: no metrics"),
        ((ACTIVE, ACTIVE), True, Reason.METRIC_AVAILABLE, "fine"),
        ((ACTIVE, LACKING), False, Reason.METRIC_MISSING, "chat-cloud-stage1: no metrics"),
        ((None, LACKING), False, Reason.METRIC_MISSING, "chat-cloud-stage1: no metrics"),
        ((ACTIVE, None), None, Reason.RECONCILING, "chat-cloud-stage1: the autoscaler has not looked yet"),
    ],
)
def test_any_stage_whose_autoscaler_lacks_its_metric_is_told(
    conditions: tuple[dict[str, Any] | None, ...], status: bool | None, reason: Reason, message: str
) -> None:
    found = scaling_ready(*conditions)
    assert found is not None
    assert (found.status, found.reason, found.message) == (status, reason, message)


def test_without_an_autoscaler_there_is_no_condition() -> None:
    made = worlds.planned()
    assert leaves.scaling(Seen("chat", 1, made, objects={}, clusters={}, troubles={}, sightings=Sightings())) is None
