"""Nodes that are objects and nothing more, whose pods the test plays: for as many as no machine has.

They never say that they are ready, so nobody waits for their heartbeats, and a thousand cost nothing while they stand.
Pods there have to tolerate everything.
"""

from __future__ import annotations

import concurrent.futures
import datetime
from collections.abc import Callable, Iterable
from typing import Any

from tests.cluster import api_server
from tests.cluster.worlds import World

LABEL = {"milliner-tests": "played"}
TOLERATIONS = [{"operator": "Exists"}]
_NODES = "/api/v1/nodes"
_THREADS = 8
_TAINT = {"key": "milliner-tests", "value": "played", "effect": "NoSchedule"}  # or others' pods would wait there


def make(server: api_server.ApiServer, count: int, *, few: int = 0) -> None:
    """So many nodes with `LABEL`, the first `few` of them with the label `few: "true"` too."""
    allocatable = {"pods": "9", "cpu": "9", "memory": "9Gi"}

    def one(number: int) -> None:
        labels = LABEL | ({"few": "true"} if number < few else {})
        metadata = {"name": f"played-{number}", "labels": labels}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": [_TAINT]}}
        server.request("POST", _NODES, body=node | {"status": {"allocatable": allocatable, "capacity": allocatable}})

    _at_once(one, range(count))


def delete(server: api_server.ApiServer) -> None:
    """Deletes them all."""
    server.request("DELETE", _NODES, labelSelector="milliner-tests=played")


def play_pods(world: World, topology: str) -> None:
    """Makes ready what has been placed since."""
    labels = f"milliner.dev/topology={topology},milliner.dev/role=device"
    found = world.server.request(
        "GET", world.path("pods"), labelSelector=labels, fieldSelector="status.phase=Pending,spec.nodeName!="
    )
    _at_once(lambda each: set_ready(world, each["metadata"]["name"]), found["items"])


def end_pods(world: World, topology: str = "") -> None:
    """Deletes all pods of the namespace or of a topology at once: no node is there to say that they have ended."""
    labels = f"milliner.dev/topology={topology}" if topology else ""
    world.server.request("DELETE", world.path("pods"), gracePeriodSeconds="0", labelSelector=labels)


def set_ready(world: World, pod: str, *, ready: bool = True) -> None:
    """Writes a pod's status as its node would, with the readiness that it has from now on."""
    told = {"status": str(ready), "lastTransitionTime": stamp()}
    status = {
        "phase": "Running",
        "conditions": [{"type": kind, **told} for kind in ("Ready", "ContainersReady")],
        "containerStatuses": [
            {"name": "role", "image": "i", "imageID": "", "ready": ready, "restartCount": 0, "state": {"running": {}}}
        ],
    }
    path = f"{world.path('pods', pod)}/status"
    world.server.request("PATCH", path, body={"status": status}, content_type=api_server.MERGE)


def go_offline(world: World, pod: str) -> None:
    """Writes a pod's status as the control plane does when nothing is heard of its node: nothing of its containers."""
    found = world.server.request("GET", world.path("pods", pod))["status"]["conditions"]
    changed = [each | {"status": "False", "lastTransitionTime": stamp()} for each in found if each["type"] == "Ready"]
    status = {"conditions": [each for each in found if each["type"] != "Ready"] + changed}
    path = f"{world.path('pods', pod)}/status"
    world.server.request("PATCH", path, body={"status": status}, content_type=api_server.MERGE)


def stamp() -> str:
    """The time, as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _at_once(do: Callable[[Any], None], items: Iterable[Any]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(do, items))
