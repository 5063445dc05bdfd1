"""Pods that may not be created: a quota kept the inspect Job from having one, and the status told no cause."""

from __future__ import annotations

from typing import Any

from tests.unit.milliner_operator import worlds

from milliner_operator import inspection, kinds, planner, refusals, world
from milliner_operator.conditions import Reason, Type
from milliner_operator.observed import Manifest, World

QUOTA = 'Error creating: pods "a" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0'


class Cluster:
    """Has no pods, and Events of a workload."""

    def __init__(self, *events: Manifest) -> None:
        self.events = list(events)
        self.asked: list[str] = []

    async def list(self, kind: kinds.Kind, namespace: str, *, fields: str = "", **_: Any) -> list[Manifest]:
        if kind is not kinds.EVENT:
            return []
        self.asked.append(fields)
        return self.events


def event(message: str, at: str = worlds.STAMP) -> Manifest:
    return {"metadata": {"name": "e"}, "message": message, "lastTimestamp": at}


async def test_the_latest_refusal_is_told() -> None:
    cluster = Cluster(event("newer", "2026-01-02T00:00:00Z"), event("older", "2026-01-01T00:00:00Z"))
    found = await refusals.trouble(cluster, "default", ("Job", "j"))  # type: ignore[arg-type]
    assert cluster.asked == ["involvedObject.kind=Job,involvedObject.name=j,reason=FailedCreate"]
    assert found is not None and (found.reason, found.message) == (Reason.POD_REFUSED, "newer")


async def test_an_inspection_whose_pod_is_refused_says_so() -> None:
    wanted = worlds.parsed()
    asked = planner.plan_topology(wanted, scope=worlds.scope(), world=World(objects={}), now=worlds.NOW)
    name = inspection.job_name(wanted, scope=worlds.scope())
    seen = await world.look(
        Cluster(event(QUOTA)),  # type: ignore[arg-type]
        wanted,
        scope=worlds.scope(),
        objects={("Job", name): worlds.child(asked, "Job", name)},
        clusters={},
        now=worlds.NOW,
    )
    plan = planner.plan_topology(wanted, scope=worlds.scope(), world=seen, now=worlds.NOW)
    ready = plan.condition(Type.MODEL_READY)
    assert ready is not None
    assert (ready.status, ready.reason, ready.message) == (False, Reason.POD_REFUSED, QUOTA)
