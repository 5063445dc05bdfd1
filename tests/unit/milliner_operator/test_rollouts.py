"""How many devices a rollout may take: those that are offline do not keep the others from a new revision."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import errors, pods, rollouts
from milliner_operator.observed import ClusterRef, Manifest, RemoteCluster
from milliner_operator.plan import Plan

POOL = {"spec.devicePools": [{"name": "p"}]}
WORKLOAD = ("DaemonSet", "chat-device-p")
ELSEWHERE = ClusterRef("edge", "kubeconfig")
LONG_AGO, JUST_NOW = "2026-11-21T11:00:00Z", "2026-11-21T11:59:50Z"


def pod(*, ready: bool = True, containers: bool = True, started: bool = True, **metadata: str) -> Manifest:
    """A device's pod; `containers`: whether they were well when the kubelet last told of them."""
    conditions = [{"type": "Ready", "status": str(ready)}]
    conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": LONG_AGO})
    status: dict[str, Any] = {"conditions": conditions}
    if started:
        status |= {"startTime": LONG_AGO, "containerStatuses": [{"name": "role", "ready": containers}]}
    return {"metadata": {"name": "chat-device-p-x", **metadata}, "spec": {}, "status": status}


@pytest.mark.parametrize(
    ("found", "away"),
    [
        (pod(), False),
        (pod(ready=False), True),  # what the control plane writes when the node is silent
        (pod(ready=False, deletionTimestamp=JUST_NOW), True),
        (pod(ready=False, containers=False), False),  # crashed, or it still loads: that is the revision's own fault
        (pod(deletionTimestamp=JUST_NOW), False),  # it drains
        (pod(deletionTimestamp=LONG_AGO), True),
        (pod(ready=False, started=False), True),
    ],
)
def test_who_is_away(found: Manifest, away: bool) -> None:
    assert pods.is_away(found, now=worlds.NOW) is away


@pytest.mark.parametrize(
    ("most", "desired", "away", "number"),
    [("10%", 3, 0, "10%"), ("10%", 3, 1, 2), ("10%", 30, 2, 5), (1, 3, 2, 3), (0, 3, 1, 2), ("25%", 10, 1, 4)],
)
def test_what_is_away_comes_on_top(most: int | str, desired: int, away: int, number: int | str) -> None:
    assert rollouts.raised(most, desired=desired, away=away) == number


class Pods:
    """An API server's pods."""

    def __init__(self, *found: Manifest, error: errors.ApiError | None = None) -> None:
        self._found, self._error = found, error
        self.asked: list[str] = []

    async def list(self, *_: Any, labels: str, limit: int) -> list[Manifest]:
        self.asked.append(labels)
        if self._error is not None:
            raise self._error
        return list(self._found[:limit])


def daemon_set(
    plan: Plan, *, desired: int = 3, updated: int = 1, most: int | str = "10%", revision: str = ""
) -> Manifest:
    """The planned one in mid-rollout; of another revision if one is given."""
    found = rollouts._changed(worlds.child(plan, *WORKLOAD), most)
    counts = {"desiredNumberScheduled": desired, "currentNumberScheduled": desired, "updatedNumberScheduled": updated}
    if revision:
        template = found["spec"]["template"]
        labels = template["metadata"]["labels"] | {"milliner.dev/revision": revision}
        found = found | {"spec": found["spec"] | {"template": template | {"metadata": {"labels": labels}}}}
    return found | {"status": counts | {"observedGeneration": 1, "numberReady": updated}}


async def number(plan: Plan, live: Manifest | None, client: Pods) -> int | str:
    """maxUnavailable of the plan after a look at what is there."""
    found = await rollouts.adjusted(
        plan,
        topology="chat",
        namespace="default",
        local=client,  # type: ignore[arg-type]
        remote={},
        objects={WORKLOAD: live} if live else {},
        clusters={},
        now=worlds.NOW,
    )
    return rollouts._most(worlds.child(found, *WORKLOAD))


async def test_a_pool_of_three_goes_on_without_the_one_that_is_offline() -> None:
    """10 % of three is one, and the one that is offline was it: the other two never got the new revision."""
    plan = worlds.planned(POOL)
    client = Pods(pod(), pod(), pod(ready=False))
    assert await number(plan, daemon_set(plan), client) == 2
    assert client.asked == ["milliner.dev/topology=chat,milliner.dev/role=device,milliner.dev/pool=p"]


async def test_a_rollout_that_is_about_to_begin_knows_who_is_offline() -> None:
    plan = worlds.planned(POOL)
    old = daemon_set(plan, updated=3, revision="before")
    assert await number(plan, old, Pods(pod(ready=False))) == 2


async def test_nothing_is_asked_and_nothing_is_changed_where_no_rollout_is_under_way() -> None:
    plan, client = worlds.planned(POOL), Pods(pod(ready=False))
    assert await number(plan, daemon_set(plan, updated=3), client) == "10%"
    assert await number(plan, None, client) == "10%"
    assert client.asked == []


async def test_a_large_pool_is_asked_for_those_that_wait_for_the_new_revision() -> None:
    plan, client = worlds.planned(POOL), Pods(*[pod(ready=False)] * 60)
    assert await number(plan, daemon_set(plan, desired=1000), client) == 150  # 10 % and the fifty that were listed
    assert "milliner.dev/revision!=" in client.asked[0]


async def test_what_cannot_be_asked_leaves_the_number_as_it_is() -> None:
    plan = worlds.planned(POOL)
    assert await number(plan, daemon_set(plan, most=2), Pods(error=errors.Unreachable(0, "no answer"))) == 2


async def test_a_pool_in_another_cluster_is_asked_there() -> None:
    near = worlds.planned(POOL)
    (role,) = near.pools
    workload = worlds.child(near, *WORKLOAD)
    role = dataclasses.replace(role, cluster=ELSEWHERE)
    plan = Plan(remote={ELSEWHERE: (workload,)}, roles=(role,))
    client = Pods(pod(ready=False))
    found = await rollouts.adjusted(
        plan,
        topology="chat",
        namespace="default",
        local=Pods(),  # type: ignore[arg-type]
        remote={ELSEWHERE: client},  # type: ignore[dict-item]
        objects={},
        clusters={ELSEWHERE: RemoteCluster({WORKLOAD: daemon_set(near)})},
        now=worlds.NOW,
    )
    assert rollouts._most(found.remote[ELSEWHERE][0]) == 2
