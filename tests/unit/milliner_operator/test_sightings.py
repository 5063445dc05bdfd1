"""What a pass finds out about pods that are not ready, by what it may list."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner.contract import names
from milliner_operator import observed, sightings
from milliner_operator.conditions import Reason
from milliner_operator.observed import Manifest
from milliner_operator.seen import Seen

POOL = {"spec.devicePools": [{"name": "p"}]}
WORKLOAD = ("DaemonSet", "chat-device-p")


class Pods:
    """An API server's pods, by what a label selector says of revisions: this one's, or any but that."""

    def __init__(self, *, current: list[Manifest], former: list[Manifest]) -> None:
        self._current, self._former = current, former

    async def list(self, *_: Any, labels: str = "", **__: Any) -> list[Manifest]:
        return self._former if f"{names.LABEL_REVISION}!=" in labels else self._current


def seen() -> Seen:
    """A rollout over two devices of which one has the new revision."""
    plan = worlds.planned(POOL)
    workload = worlds.child(plan, *WORKLOAD)
    counts = {"desiredNumberScheduled": 2, "currentNumberScheduled": 2, "updatedNumberScheduled": 1, "numberReady": 1}
    live = {**workload, "status": counts | {"observedGeneration": 1}}
    nothing = observed.Sightings()
    return Seen(
        topology="chat", generation=1, plan=plan, objects={WORKLOAD: live}, clusters={}, troubles={}, sightings=nothing
    )


async def look(former: list[Manifest], *, current: Manifest | None = None) -> observed.Trouble | None:
    ready = [{"type": "Ready", "status": "True"}]
    new = {"metadata": {"name": "new"}, "spec": {}, "status": {"conditions": ready}}
    client: Any = Pods(current=[current or new], former=former)
    client.proxy_pod = _no_answer
    found = await sightings.look(seen(), local=client, remote={}, namespace="default", now=worlds.NOW)
    return found.troubles.get(WORKLOAD)


async def _no_answer(*_: Any, **__: Any) -> str:
    return ""


def old(**metadata: str) -> Manifest:
    ready = [{"type": "Ready", "status": "True"}]
    return {"metadata": {"name": "old", **metadata}, "spec": {"nodeName": "jetson-7"}, "status": {"conditions": ready}}


async def test_an_offline_device_that_holds_a_rollout_up_is_named() -> None:
    """It was told as `Updating` for ever: its pod is of another revision than those that were looked at."""
    ended = (worlds.NOW - datetime.timedelta(minutes=5)).isoformat()
    trouble = await look([old(deletionTimestamp=ended)])
    assert trouble is not None and trouble.reason is Reason.DEVICE_UNREACHABLE
    assert "jetson-7 does not answer" in trouble.message


async def test_a_rollout_that_goes_on_is_no_trouble() -> None:
    ending = (worlds.NOW + datetime.timedelta(seconds=60)).isoformat()
    assert await look([old(), old(deletionTimestamp=ending)]) is None


@pytest.mark.parametrize(("seconds", "told"), [(10, False), (31, True)])
async def test_a_pod_that_its_node_does_not_begin_with_is_told(seconds: int, told: bool) -> None:
    """Placed on a node that had just lost its power, it was not ready for ever without a reason."""
    at = (worlds.NOW - datetime.timedelta(seconds=seconds)).isoformat()
    placed = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": at}]
    new = {"metadata": {"name": "new"}, "spec": {"nodeName": "jetson-7"}, "status": {"conditions": placed}}
    trouble = await look([], current=new)
    assert (trouble is not None) == told
    if trouble is not None:
        assert trouble.reason is Reason.DEVICE_UNREACHABLE and "jetson-7 does not answer" in trouble.message
