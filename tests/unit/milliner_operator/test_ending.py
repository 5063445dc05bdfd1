"""A topology that is deleted but for finalizers of others: in a deletion in the foreground its Services went first, and
Ready was True until the last pod was gone."""

from __future__ import annotations

from typing import Any

import prometheus_client
from tests.unit.milliner_operator import worlds

from milliner_operator import errors, kinds, reconcile
from milliner_operator.metrics import Metrics
from milliner_operator.observed import Manifest

READY = {"type": "Ready", "status": "True", "reason": "AllRolesReady", "message": "", "observedGeneration": 1}


class Cluster:
    """Has one topology that is being deleted, and no children any more; it may be `gone` when it is written."""

    def __init__(self, *finalizers: str, gone: bool = False) -> None:
        self.topology = worlds.document()
        self.topology["metadata"] |= {"generation": 2, "resourceVersion": "7", "finalizers": list(finalizers)}
        self.topology["metadata"]["deletionTimestamp"] = worlds.STAMP
        self.topology["status"] = {"conditions": [READY | {"lastTransitionTime": "2026-11-21T10:00:00Z"}]}
        self.writes = 0
        self._gone = gone

    async def get(self, *_: Any) -> Manifest:
        return self.topology

    async def list(self, kind: kinds.Kind, namespace: str, **_: Any) -> list[Manifest]:
        return []

    async def apply_status(self, namespace: str, name: str, status: dict[str, Any], *, version: str) -> Manifest:
        if self._gone:
            raise errors.NotFound(404, "not found")
        self.writes += 1
        self.topology["status"] = status
        return self.topology


async def passed(cluster: Cluster) -> dict[str, Any]:
    """Ready after two passes."""
    reconciler = reconcile.Reconciler(
        cluster,  # type: ignore[arg-type]
        settings=worlds.SETTINGS,
        clusters=None,  # type: ignore[arg-type]
        metrics=Metrics(prometheus_client.CollectorRegistry()),
        now=lambda: worlds.NOW,
    )
    for _ in range(2):
        assert await reconciler(("default", "chat")) is None
    found: dict[str, Any] = cluster.topology["status"]["conditions"][0]
    return found


async def test_it_says_once_that_it_ends() -> None:
    cluster = Cluster("foregroundDeletion")
    ready = await passed(cluster)
    assert (ready["status"], ready["observedGeneration"]) == ("False", 2)
    assert "being deleted" in ready["message"] and "foregroundDeletion" in ready["message"]
    assert cluster.writes == 1


async def test_nothing_is_written_where_it_goes_at_once() -> None:
    cluster = Cluster()
    assert (await passed(cluster))["status"] == "True" and cluster.writes == 0


async def test_one_that_is_gone_when_it_is_told_is_no_failure() -> None:
    await passed(Cluster("foregroundDeletion", gone=True))
