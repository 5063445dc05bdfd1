"""A device pool in a second cluster: what is said while that is silent, coming home, deletion with and without it.

The tests tell one story, in their order, of one topology after another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import api_server, edge_cluster
from tests.cluster.edge_cluster import Edge
from tests.cluster.worlds import World

HOME = {"name": "orin", "replicas": 1}
AWAY = HOME | {"clusterSecretRef": {"name": "edge"}}
CLOUD = {"service": {"type": "LoadBalancer"}}
FINALIZER = "milliner.dev/remote-pools"


@pytest.fixture(scope="module")
def edge(world: World) -> Iterator[Edge]:
    """The second cluster, and its Secret beside the topologies."""
    with edge_cluster.connect(world.namespace) as found:
        world.server.request("POST", world.path("secrets"), body=found.secret())
        yield found


def apply(world: World, *pools: dict[str, Any], name: str = "chat") -> None:
    world.apply(name, devicePools=list(pools), cloud=CLOUD)


def until_there(world: World, edge: Edge, *, name: str = "chat") -> None:
    world.until(lambda: f"deployments/{name}-device-orin" in edge.children(), name=name)


def finalizers(world: World, name: str = "chat") -> list[str]:
    found: list[str] = world.topology(name)["metadata"].get("finalizers") or []
    return found


def exists(world: World, name: str) -> bool:
    try:
        world.topology(name)
    except api_server.Refused:
        return False
    return True


def told(world: World, name: str, kind: str) -> str:
    conditions = (world.topology(name).get("status") or {}).get("conditions") or []
    return next((str(each["message"]) for each in conditions if each["type"] == kind), "")


def test_a_pool_elsewhere_is_ready(world: World, edge: Edge) -> None:
    apply(world, AWAY)
    world.until_condition("chat", "Ready", "True")
    assert world.topology("chat")["status"]["summary"] == {"cloud": "1/1", "devices": "1/1"}
    assert finalizers(world) == [FINALIZER]


def test_of_a_silent_cluster_nothing_is_claimed_and_nobody_waits_for_it(world: World, edge: Edge) -> None:
    with edge.silent():
        world.until_condition("chat", "DevicesReady", "False", "DeviceUnreachable")
        status = world.topology("chat")["status"]
        assert status["summary"] == {"cloud": "1/1", "devices": "?/?"}
        assert not {"ready", "desired", "updated"} & status["devicePools"][0].keys()
        assert world.condition("chat", "StreamReady")[0] == world.condition("chat", "Progressing")[0] == "Unknown"
        assert world.condition("chat", "CloudReady") == ("True", "AllPodsReady")
        world.passes("chat", 4, deadline_s=30)  # of which one may have waited for it
    world.until_condition("chat", "Ready", "True")


def test_a_pool_that_comes_home_leaves_nothing_there(world: World, edge: Edge) -> None:
    apply(world, HOME)
    world.until(lambda: not edge.children(), name="chat")
    world.until_condition("chat", "Ready", "True")
    world.until(lambda: finalizers(world) == [], name="chat")
    assert not any("clusters" in each for each in world.children("chat"))


def test_a_pool_that_comes_home_from_a_silent_cluster_serves_and_says_what_is_left(world: World, edge: Edge) -> None:
    apply(world, AWAY)
    until_there(world, edge)
    with edge.silent():
        apply(world, HOME)
        world.until_condition("chat", "CleanupPending", "True", "CleanupPending")
        world.until_condition("chat", "Ready", "True")
        assert finalizers(world) == [FINALIZER]
    world.until(lambda: not edge.children(), name="chat")
    world.until(lambda: finalizers(world) == [], name="chat")
    assert world.condition("chat", "CleanupPending") == ("", "")


def test_deletion_waits_for_a_silent_cluster_says_so_and_frees_everything_else(world: World, edge: Edge) -> None:
    apply(world, AWAY)
    until_there(world, edge)
    with edge.silent():
        world.delete("chat")
        world.until_condition("chat", "CleanupPending", "True", "CleanupPending")
        assert world.condition("chat", "Ready") == ("False", "CleanupPending")
        assert "Secret edge" in told(world, "chat", "Ready")
        assert "delete the Secret" in world.events("chat")[-1]["message"]
        world.until(lambda: list(world.children("chat")) == ["configmaps/chat-clusters"], name="chat")
        before = len(world.events("chat"))
        world.passes("chat", 2)
        assert len(world.events("chat")) == before
    world.until(lambda: not exists(world, "chat"))
    assert edge.children() == []


def test_a_cluster_that_never_comes_back_is_given_up_with_its_secret(world: World, edge: Edge) -> None:
    apply(world, AWAY, name="lost")
    until_there(world, edge, name="lost")
    with edge.silent():
        world.delete("lost")
        world.until_condition("lost", "CleanupPending", "True")
        world.server.request("DELETE", world.path("secrets", "edge"))
        world.until(lambda: not exists(world, "lost"))
    assert edge.children()
