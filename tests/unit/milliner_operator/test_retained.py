"""A pod finds the configuration of its own revision for as long as there may be one of that revision."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.unit.milliner_operator import test_decisions, worlds

from milliner.contract import names
from milliner_operator import executor, kinds, observed
from milliner_operator.observed import Manifest, Ref

OLD: dict[str, Any] = {"spec.cloud.engine": {"maxSessions": 8}, "spec.devicePools": [{"name": "d"}]}
NEW: dict[str, Any] = {
    "spec.cloud.engine": {"maxSessions": 9},
    "spec.devicePools": [{"name": "d", "api": {"port": 81}}],
}
CLOUD, DEVICES = ("Deployment", "chat-cloud"), ("DaemonSet", "chat-device-d")


def config_map(changes: dict[str, Any], workload: Ref) -> Ref:
    """The ConfigMap that a workload's pods start with."""
    plan = worlds.planned(changes)
    volumes = worlds.child(plan, *workload)["spec"]["template"]["spec"]["volumes"]
    name = next(each for each in volumes if each["name"] == "config")["configMap"]["name"]
    assert ("ConfigMap", name) in {observed.ref(each) for each in plan.local}
    return "ConfigMap", name


def live(workloads_of: dict[str, Any], *, updated: int, total: int = 2) -> dict[Ref, Manifest]:
    """Children of both revisions; both workloads have the template of `workloads_of`, and so many pods of it."""
    found = test_decisions.world((*worlds.planned(OLD).local, *worlds.planned(NEW).local))
    plan = worlds.planned(workloads_of)
    counts = {"observedGeneration": 1, "updatedReplicas": updated, "readyReplicas": updated, "replicas": total}
    for ref in (CLOUD, DEVICES):
        found[ref] = copy.deepcopy(test_decisions.applied(worlds.child(plan, *ref)))
        found[ref]["status"] = counts | {
            "desiredNumberScheduled": 2,
            "currentNumberScheduled": total,
            "updatedNumberScheduled": updated,
        }
        found[ref]["spec"] |= {"replicas": 2} if ref == CLOUD else {}
    return found


class Pods:
    """An API server that has pods of some revisions and lets anything be deleted."""

    def __init__(self, *revisions: str) -> None:
        self.revisions = revisions
        self.deleted: list[Ref] = []

    async def list(self, kind: kinds.Kind, namespace: str, *, labels: str, limit: int) -> list[Manifest]:
        assert kind is kinds.POD and limit == 1
        asked = dict(part.split("=") for part in labels.split(","))
        assert asked[names.LABEL_POOL] == "d"
        return [{}] if asked[names.LABEL_REVISION] in self.revisions else []

    async def delete(self, kind: kinds.Kind, namespace: str, name: str, *, uid: str) -> None:
        self.deleted.append((kind.kind, name))

    async def apply(self, manifest: Manifest) -> Manifest:
        return manifest


async def deleted(found: dict[Ref, Manifest], *revisions: str) -> set[Ref]:
    """What a pass that wants `NEW` deletes where there are pods of `revisions`."""
    client: Any = Pods(*revisions)
    wanted = worlds.planned(NEW).local
    await executor.execute(client, namespace="default", uid=worlds.UID, wanted=wanted, live=found, complete=True)
    return set(client.deleted)


def test_each_revision_has_a_config_map_of_its_own() -> None:
    for workload in (CLOUD, DEVICES):
        assert config_map(OLD, workload) != config_map(NEW, workload)
        assert config_map(OLD, workload) == config_map(copy.deepcopy(OLD), workload)  # a revert finds it


@pytest.mark.parametrize(
    ("workloads_of", "updated", "total"),
    [(OLD, 2, 2), (NEW, 1, 2), (NEW, 1, 3), (NEW, 2, 3)],
    ids=["not begun", "under way", "one more stands in", "old ones end"],
)
async def test_pods_of_an_old_revision_keep_their_configuration(
    workloads_of: dict[str, Any], updated: int, total: int
) -> None:
    old = config_map(OLD, DEVICES)[1].rpartition("-")[2]
    assert await deleted(live(workloads_of, updated=updated, total=total), old) == set()


async def test_what_no_pod_can_need_any_more_goes() -> None:
    gone = {config_map(OLD, CLOUD), config_map(OLD, DEVICES)}
    assert await deleted(live(NEW, updated=2)) == gone


async def test_a_device_that_stays_away_holds_no_configuration_but_its_own() -> None:
    """The rollout never ends; a Deployment's older ReplicaSet may make pods at any time, a DaemonSet does not."""
    assert await deleted(live(NEW, updated=1)) == {config_map(OLD, DEVICES)}
