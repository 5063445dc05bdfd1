"""A namespace or the whole kind that goes away while the operator watches, and one that comes only after its start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milliner_operator import errors, kinds, presence
from milliner_operator.kopf_namespaces import Watched
from milliner_operator.observed import Manifest


class Cluster:
    """Serves topologies or not, and refuses those of some namespaces."""

    def __init__(self) -> None:
        self.serving = True
        self.forbidden: set[str] = set()
        self.looks = 0

    async def serves(self, kind: kinds.Kind) -> bool:
        self.looks += 1
        return self.serving

    async def list(self, kind: kinds.Kind, namespace: str, **_: Any) -> list[Manifest]:
        if namespace in self.forbidden:
            raise errors.Forbidden(403, "may not list")
        return []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "_LOOK_S", 0.005)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def watched() -> Watched:
    """As kopf has filled it in at its start."""
    found = Watched()
    found.insights.namespaces.update({"one", "other"})  # type: ignore[arg-type]
    found.insights.ready_namespaces.set()
    return found


async def looks(cluster: Cluster, count: int = 3) -> None:
    until = cluster.looks + count
    async with asyncio.timeout(5):
        while cluster.looks < until:
            await asyncio.sleep(0.001)


async def test_a_namespace_that_goes_ends_its_own_watches_alone(cluster: Cluster, watched: Watched) -> None:
    """kopf ended for all namespaces when the rights in one were gone with it."""
    forgotten: list[str] = []
    keeping = asyncio.create_task(
        presence.keep(cluster, watched, namespaces=("one", "other"), forget=forgotten.append)  # type: ignore[arg-type]
    )
    await looks(cluster)
    assert watched.names == {"one", "other"}
    cluster.forbidden = {"one"}
    async with asyncio.timeout(5):
        async with watched.changed:
            await watched.changed.wait()
    assert watched.names == {"other"}
    await looks(cluster)
    assert set(forgotten) == {"one"}
    cluster.forbidden = set()
    await looks(cluster)
    assert watched.names == {"one", "other"}
    assert not keeping.done()
    keeping.cancel()


async def test_a_kind_that_is_gone_ends_the_operator(cluster: Cluster, watched: Watched) -> None:
    """A definition that was deleted and installed again was never watched any more, and liveness was green."""
    cluster.serving = False
    with pytest.raises(errors.KindGone, match="inferencetopologies"):
        await presence.keep(cluster, watched, namespaces=(), forget=lambda _: None)  # type: ignore[arg-type]


async def test_a_kind_that_is_away_for_a_moment_ends_nothing(cluster: Cluster, watched: Watched) -> None:
    keeping = asyncio.create_task(
        presence.keep(cluster, watched, namespaces=(), forget=lambda _: None)  # type: ignore[arg-type]
    )
    cluster.serving = False
    await looks(cluster, presence._GONE_LOOKS - 1)
    cluster.serving = True
    await looks(cluster)
    assert not keeping.done()
    keeping.cancel()


async def test_the_operator_waits_for_the_definition(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.serving = False
    waiting = asyncio.create_task(presence.await_kind(cluster))  # type: ignore[arg-type]
    await looks(cluster)
    assert not waiting.done() and "definition is not installed" in caplog.text
    cluster.serving = True
    async with asyncio.timeout(5):
        await waiting
