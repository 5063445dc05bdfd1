"""Options that other ones leave nothing to decide are told; those that count are not."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.milliner.contract import documents_of

from milliner.contract import availability, emulation, kinds, topology

REFINED = {"refinement": {"mode": "Auto", "minKeepPercent": 20}}


def told(kind: str, changes: dict[str, Any]) -> list[str]:
    wanted = topology.parse(documents_of.changed({"spec.strategy": {"type": kind}, **changes}))
    return [note.split(" has no effect")[0] for note in availability.notes(wanted)]


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({}, []),
        (REFINED, []),
        ({**REFINED, "cloudTokens": {"mode": "Fixed"}}, ["refinement.mode"]),
        ({"refinement": {"minKeepPercent": 20}}, ["refinement.minKeepPercent"]),
        ({"pacing": {"maxIntervalMilliseconds": 50}}, []),
        ({"pacing": {"maxIntervalMilliseconds": 51}}, ["pacing.maxIntervalMilliseconds"]),
        (
            {"pacing": {"minIntervalMilliseconds": 60, "maxIntervalMilliseconds": 80}},
            ["pacing.minIntervalMilliseconds", "pacing.maxIntervalMilliseconds"],
        ),
    ],
)
def test_options_of_pd_device(options: dict[str, Any], idle: list[str]) -> None:
    assert told("PDDevice", {"spec.strategy.pdDevice": options}) == [f"strategy.pdDevice.{field}" for field in idle]


def test_an_external_engine_leaves_prompts_whole() -> None:
    external = {"spec.cloud.engine": {"type": "External", "external": {"url": "http://vllm:8000/v1"}}}
    options = {**REFINED, "cloudTokens": {"mode": "Fixed"}}
    assert told("PDDevice", {"spec.strategy.pdDevice": options, **external}) == ["strategy.pdDevice.refinement"]


def test_the_objective_that_holds_is_named() -> None:
    changes = {
        "spec.strategy": {"type": "PDDevice", "pdDevice": {"pacing": {"minIntervalMilliseconds": 45}}},
        "spec.objectives": {"timePerOutputTokenMilliseconds": 40},
    }
    (note,) = availability.notes(topology.parse(documents_of.changed(changes)))
    assert note.endswith("objectives.timePerOutputTokenMilliseconds (40) is less and holds")


def test_a_tier_that_is_not_there() -> None:
    changes = {"spec.cloud": {"replicas": 2}, "spec.fallback": {"onCloudLoss": "Fail"}}
    assert told("DeviceOnly", changes) == ["cloud", "fallback"]
    assert told("CloudOnly", changes) == []


@pytest.mark.parametrize("kind", ["Hat", "UShape", "PDDevice", "DeviceOnly", "CloudOnly"])
def test_memory_for_a_whole_model_that_a_device_does_not_hold(kind: str) -> None:
    idle = [] if kind in ("PDDevice", "DeviceOnly") else ["devicePools[].kvCacheMebibytes"]
    assert told(kind, {"spec.devicePools.0.kvCacheMebibytes": 64}) == idle


def test_nobody_waits_for_a_cloud_that_is_not_needed() -> None:
    assert told("PDDevice", {"spec.fallback": {"waitSeconds": 5}}) == ["fallback.waitSeconds"]
    assert told("PDDevice", {"spec.fallback": {"onCloudLoss": "Fail"}}) == []
    assert told("CloudOnly", {"spec.fallback": {"waitSeconds": 5}}) == []


@pytest.mark.parametrize("kind", ["Hat", "UShape", "PDDevice", "DeviceOnly", "CloudOnly"])
def test_durations_of_what_a_device_does_not_compute(kind: str) -> None:
    compute = {"shallow": {}, "wholeModel": {"stepMicroseconds": 3}}
    found = told(kind, {"spec.devicePools.0.emulation": {"compute": compute}})
    idle = {"Hat": ["wholeModel"], "UShape": ["wholeModel"], "CloudOnly": ["shallow", "wholeModel"]}.get(
        kind, ["shallow"]
    )
    assert found == [f"devicePools[].emulation.compute.{name}" for name in idle]


def test_each_strategy_says_what_its_devices_compute() -> None:
    for kind in kinds.StrategyType:
        compute: dict[str, Any] = {
            info.alias or name: {} for name, info in emulation.DeviceCompute.model_fields.items()
        }
        compute["perBranchMicroseconds"] = 1
        assert told(kind.value, {"spec.devicePools.0.emulation": {"compute": compute}}), kind
