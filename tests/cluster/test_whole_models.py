"""Strategies over whole models at a real cluster with stand-in pods: what is there for each, and what goes when one is
changed into another; nothing is written once all is there."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster import worlds
from tests.cluster.worlds import World

WRITES = "milliner_operator_writes_total"
OWN = {"source": "hf://org/small@v1"}  # the stand-in looks at no source
POOLS = [{"name": "same", "replicas": 1}, {"name": "own", "replicas": 1, "model": OWN}]
EXTERNAL = {"engine": {"type": "External", "external": {"url": "http://engine:8000/v1"}}}


@pytest.fixture(scope="module")
def whole(world: World) -> World:
    """With a topology `whole` of strategy PDDevice that is ready."""
    apply(world, "PDDevice", devicePools=POOLS)
    world.until_condition("whole", "Ready", "True")
    return world


def apply(world: World, strategy: str, **spec: Any) -> None:
    world.apply("whole", strategy={"type": strategy}, **spec)


def of_the_cloud(world: World) -> set[str]:
    """What is there of a cloud tier, certificates included; pods and what hangs on them end by themselves."""
    kinds = ("deployments/", "services/", "poddisruptionbudgets/", "networkpolicies/", "secrets/")
    return {each for each in world.children("whole") if each.startswith(kinds) and "-device-" not in each}


def test_a_pools_own_model_is_inspected_and_told_and_nothing_is_written_after(whole: World) -> None:
    status = whole.topology("whole")["status"]
    assert status["summary"] == {"cloud": "1/1", "devices": "2/2"}
    assert [pool.get("modelDigest") for pool in status["devicePools"]] == [None, worlds.DIGEST]
    found = whole.children("whole")
    assert len([each for each in found if each.startswith("configmaps/whole-facts")]) == 2
    assert not [each for each in found if each.startswith("jobs/")]
    whole.passes("whole", 2)
    before, writes = whole.versions("whole"), whole.operator.metric(WRITES)
    whole.passes("whole", 3)
    assert whole.operator.metric(WRITES) == writes
    assert whole.versions("whole") == before


@pytest.mark.parametrize(
    ("strategy", "spec", "cloud_ready", "has_cloud"),
    [
        ("DeviceOnly", {"devicePools": POOLS}, "NoCloudNeeded", False),
        ("PDDevice", {"devicePools": POOLS, "cloud": EXTERNAL}, "ExternalEngineAnswers", False),
        ("CloudOnly", {"devicePools": []}, "AllPodsReady", True),
    ],
    ids=["DeviceOnly", "External", "CloudOnly"],
)
def test_one_strategy_becomes_another(
    whole: World, strategy: str, spec: dict[str, Any], cloud_ready: str, has_cloud: bool
) -> None:
    apply(whole, strategy, **spec)
    whole.until_condition("whole", "Ready", "True")
    whole.until_condition("whole", "CloudReady", "True", cloud_ready)
    whole.until(lambda: bool(of_the_cloud(whole)) is has_cloud, name="whole")
    pools = {each["name"] for each in whole.topology("whole")["status"]["devicePools"]}
    assert pools == ({"gateway"} if strategy == "CloudOnly" else {"same", "own"})
