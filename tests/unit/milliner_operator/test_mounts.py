"""A Secret that a pod mounts is missing: kubelets say so in Events alone, and the status went on saying Inspecting."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import inspection, kinds, mounts, planner, world
from milliner_operator.conditions import Reason, Type
from milliner_operator.observed import Manifest, World

MISSING = 'MountVolume.SetUp failed for volume "credentials" : secret "hub" not found'
PODS = [
    {"metadata": {"name": "done"}, "spec": {}, "status": {"containerStatuses": [{"state": {"running": {}}}]}},
    {
        "metadata": {"name": "p"},
        "spec": {},
        "status": {"containerStatuses": [{"ready": False, "state": {"waiting": {"reason": "ContainerCreating"}}}]},
    },
]


class Cluster:
    """Has Events of one pod."""

    def __init__(self, *events: Manifest) -> None:
        self.events = list(events)
        self.asked: list[str] = []

    async def list(self, kind: kinds.Kind, namespace: str, *, fields: str = "", **_: Any) -> list[Manifest]:
        if kind is kinds.EVENT:
            self.asked.append(fields)
            return self.events
        return PODS[1:]


def event(count: int, message: str = MISSING) -> Manifest:
    return {"metadata": {"name": "e"}, "count": count, "message": message, "lastTimestamp": worlds.STAMP}


@pytest.mark.parametrize(("events", "told"), [((event(5),), True), ((event(1),), False), ((), False)])
async def test_what_is_missing_is_named(events: tuple[Manifest, ...], told: bool) -> None:
    cluster = Cluster(*events)
    found = await mounts.trouble(cluster, "default", PODS)  # type: ignore[arg-type]
    assert cluster.asked == ["involvedObject.kind=Pod,involvedObject.name=p,reason=FailedMount"]
    assert (found is not None) == told
    if found is not None:
        assert found.reason is Reason.VOLUME_NOT_MOUNTED and found.message == f"pod p: {MISSING}"


async def test_nothing_is_asked_where_every_container_was_created() -> None:
    cluster = Cluster(event(5))
    assert await mounts.trouble(cluster, "default", PODS[:1]) is None  # type: ignore[arg-type]
    assert cluster.asked == []


async def test_an_inspection_without_its_credentials_says_so() -> None:
    wanted = worlds.parsed()
    asked = planner.plan_topology(wanted, scope=worlds.scope(), world=World(objects={}), now=worlds.NOW)
    name = inspection.job_name(wanted, scope=worlds.scope())
    job = worlds.child(asked, "Job", name)
    seen = await world.look(
        Cluster(event(5)),  # type: ignore[arg-type]
        wanted,
        scope=worlds.scope(),
        objects={("Job", name): job},
        clusters={},
        now=worlds.NOW,
    )
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    ready = plan.condition(Type.MODEL_READY)
    assert ready is not None
    assert (ready.status, ready.reason) == (False, Reason.VOLUME_NOT_MOUNTED) and "hub" in ready.message
