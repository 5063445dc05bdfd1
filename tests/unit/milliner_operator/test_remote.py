"""Other clusters: one that is silent is not asked by every pass, one that nobody can reach any more is given up."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from milliner_operator import errors, kinds, remote
from milliner_operator.children import plain
from milliner_operator.observed import ClusterRef, Manifest

EDGE = ClusterRef("edge", "kubeconfig")
UID = "uid-1"


class Cluster:
    """As much of a cluster as is asked: Secrets by name, children by kind; `down` is how it fails to answer."""

    def __init__(self) -> None:
        self.secrets: dict[str, Manifest] = {}
        self.objects: list[Manifest] = []
        self.down: errors.ApiError | None = None
        self.refuses: errors.ApiError | None = None
        self.lists = 0
        self.closed = False

    async def get(self, kind: kinds.Kind, namespace: str, name: str) -> Manifest | None:
        return self.secrets.get(name)

    async def list(self, kind: kinds.Kind, namespace: str, **_: Any) -> list[Manifest]:
        self.lists += 1
        if self.down is not None:
            raise self.down
        return [each for each in self.objects if each["kind"] == kind.kind]

    def close(self) -> None:
        self.closed = True

    async def delete(self, kind: kinds.Kind, namespace: str, name: str, *, uid: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.objects = [each for each in self.objects if each["metadata"]["uid"] != uid]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def secret(text: str = "kubeconfig of edge") -> Manifest:
    return {"data": {"kubeconfig": base64.b64encode(text.encode()).decode()}}


def child(name: str) -> Manifest:
    metadata = {"name": name, "uid": f"uid-{name}", "labels": {"milliner.dev/topology-uid": UID}}
    return {"kind": "DaemonSet", "metadata": metadata}


@pytest.fixture
def home() -> Cluster:
    found = Cluster()
    found.secrets["edge"] = secret()
    return found


@pytest.fixture
def edge() -> Cluster:
    found = Cluster()
    found.objects = [child("chat-device-orin")]
    return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def clusters(home: Cluster, edge: Cluster, clock: Clock) -> remote.Clusters:
    return remote.Clusters(home, connect=lambda text: edge, now=clock)  # type: ignore[arg-type, return-value]


async def look(clusters: remote.Clusters, *, named: bool = True) -> Any:
    seen, clients = await clusters.look("default", [EDGE], named=[EDGE] if named else [], topology="chat", uid=UID)
    assert (EDGE in clients) == (seen[EDGE].error == "")
    return seen[EDGE]


async def test_what_is_there_is_seen(clusters: remote.Clusters) -> None:
    assert list((await look(clusters)).objects) == [("DaemonSet", "chat-device-orin")]


async def test_a_silent_cluster_is_asked_again_only_after_a_while(
    clusters: remote.Clusters, edge: Cluster, clock: Clock
) -> None:
    edge.down = errors.Unreachable(0, "no route to host")
    first = await look(clusters)
    assert first.error == "cluster of Secret edge: no route to host"
    asked = edge.lists
    for _ in range(5):
        assert await look(clusters) == first
    assert edge.lists == asked
    edge.down, clock.now = None, 60.0
    assert (await look(clusters)).objects


async def test_a_cluster_that_refuses_does_answer_and_is_asked_each_time(
    clusters: remote.Clusters, edge: Cluster
) -> None:
    edge.down = errors.Forbidden(403, "may not list")
    assert "may not list" in (await look(clusters)).error
    edge.down = None
    assert (await look(clusters)).objects


async def test_new_credentials_are_tried_at_once(clusters: remote.Clusters, home: Cluster, edge: Cluster) -> None:
    edge.down = errors.Unreachable(0, "no route to host")
    await look(clusters)
    edge.down, home.secrets["edge"] = None, secret("another address")
    assert (await look(clusters)).objects


async def test_clients_of_credentials_that_no_secret_has_any_more_are_closed(home: Cluster, clock: Clock) -> None:
    """A token that is renewed hourly left 24 threads and a client each time."""
    made: list[Cluster] = []

    def connect(text: str) -> Cluster:
        made.append(Cluster())
        return made[-1]

    clusters = remote.Clusters(home, connect=connect, now=clock)  # type: ignore[arg-type]
    await look(clusters)
    home.secrets["edge"] = secret("a new token")
    await look(clusters)
    assert not made[0].closed, "a pass may still be using it"
    clock.now = 300.0
    await look(clusters)
    assert [each.closed for each in made] == [True, False]
    clock.now = 20_000.0  # no topology has named the Secret for hours
    await clusters.look("default", [], named=[], topology="chat", uid=UID)
    assert made[1].closed


async def test_only_one_pass_waits_for_a_cluster_that_was_silent(
    clusters: remote.Clusters, edge: Cluster, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge.down = errors.Unreachable(0, "no route to host")
    await look(clusters)
    clock.now, asked = 60.0, asyncio.Event()

    async def hang(*_: Any, **__: Any) -> list[Manifest]:
        asked.set()
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(edge, "list", hang)
    monkeypatch.setattr(remote, "_STILL_S", 0.05)
    first = asyncio.create_task(look(clusters))
    await asked.wait()
    assert "no route to host" in (await look(clusters)).error
    assert not first.done(), "the other did not wait"
    assert "no answer" in (await first).error


async def test_a_named_cluster_without_its_secret_is_an_error(clusters: remote.Clusters, home: Cluster) -> None:
    await look(clusters)
    del home.secrets["edge"]
    found = await look(clusters)
    assert "Secret edge of clusterSecretRef is not there" in found.error and not found.given_up


async def test_what_is_left_is_cleaned_up_even_if_the_secret_went_first(
    clusters: remote.Clusters, home: Cluster, edge: Cluster
) -> None:
    await look(clusters)
    del home.secrets["edge"]
    assert await clusters.clean_up("default", [EDGE], topology="chat", uid=UID) == []
    assert edge.objects == []


@pytest.mark.parametrize("known", [True, False])
async def test_a_cluster_without_its_secret_that_is_silent_or_unknown_is_given_up(
    clusters: remote.Clusters, home: Cluster, edge: Cluster, known: bool
) -> None:
    if known:
        await look(clusters)
        edge.down = errors.Unreachable(0, "no route to host")
    del home.secrets["edge"]
    assert (await look(clusters, named=False)).given_up
    assert await clusters.clean_up("default", [EDGE], topology="chat", uid=UID) == []
    assert edge.objects  # nobody could


async def test_what_a_cluster_refuses_to_delete_keeps_the_topology_waiting(
    clusters: remote.Clusters, edge: Cluster
) -> None:
    edge.refuses = errors.Forbidden(403, "denied by policy")
    [problem] = await clusters.clean_up("default", [EDGE], topology="chat", uid=UID)
    assert "denied by policy" in problem and "edge" in problem
    edge.refuses = None
    assert await clusters.clean_up("default", [EDGE], topology="chat", uid=UID) == [] and edge.objects == []


async def test_one_silent_cluster_does_not_keep_another_from_being_cleaned_up(home: Cluster, edge: Cluster) -> None:
    lost, silent = ClusterRef("another", "kubeconfig"), Cluster()
    silent.down = errors.Unreachable(0, "no route to host")
    home.secrets["another"] = secret("kubeconfig of another")
    connect = {"kubeconfig of edge": edge, "kubeconfig of another": silent}.__getitem__
    both = remote.Clusters(home, connect=connect)  # type: ignore[arg-type]
    problems = await both.clean_up("default", [lost, EDGE], topology="chat", uid=UID)
    assert problems == ["cluster of Secret another: no route to host"]
    assert edge.objects == []


def test_a_list_of_clusters_that_somebody_wrote_into_is_none() -> None:
    ref = ("ConfigMap", "chat-clusters")
    good = {ref: {"data": {plain.CLUSTERS_KEY: json.dumps([["edge", "kubeconfig"]])}}}
    assert remote.listed(good, name=ref[1]) == [EDGE]
    assert remote.listed({ref: {"data": {plain.CLUSTERS_KEY: "x"}}}, name=ref[1]) == []
