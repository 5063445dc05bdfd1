"""Two installations that could serve the same namespaces: one does, and the other once that one is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from milliner_operator import claims, errors, kinds
from milliner_operator.claims import Claim
from milliner_operator.observed import Manifest

MINE, OTHER = "system/milliner", "elsewhere/milliner"
EARLY, LATE = "2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z"


def claim(owner: str, *, namespace: str = "", since: str = EARLY) -> Manifest:
    """As the chart makes it: for one namespace, or for all."""
    metadata = {"namespace": namespace or owner.partition("/")[0], "creationTimestamp": since}
    metadata["name"] = claims.NAME if namespace else "milliner-claim-all"
    label = claims.ONE if namespace else claims.ALL
    return {"kind": "ConfigMap", "metadata": metadata | {"labels": {claims.LABEL: label}}, "data": {"operator": owner}}


class Cluster:
    """Answers with the claims that there are, or with an error."""

    def __init__(self) -> None:
        self.found: list[Manifest] = []
        self.error: errors.ApiError | None = None
        self.looks = 0

    async def get(self, kind: kinds.Kind, namespace: str, name: str) -> Manifest | None:
        self._look()
        key = (namespace, name)
        return next((each for each in self.found if place(each) == key), None)

    async def list(self, kind: kinds.Kind, namespace: str, *, labels: str, **_: Any) -> list[Manifest]:
        self._look()
        assert (namespace, labels) == ("", claims.LABEL)
        return self.found

    def _look(self) -> None:
        self.looks += 1
        if self.error is not None:
            raise self.error


def place(manifest: Manifest) -> tuple[str, str]:
    return manifest["metadata"]["namespace"], manifest["metadata"]["name"]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


Make = Callable[..., claims.Claims]


@pytest.fixture
async def make(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    """Makes an operator's knowledge of claims, which looks until the test ends."""
    monkeypatch.setattr(claims, "_LOOK_S", 0.001)
    tasks: list[asyncio.Task[Any]] = []

    def made(*namespaces: str, me: str = MINE) -> claims.Claims:
        known = claims.Claims(cluster, me=me, namespaces=namespaces)  # type: ignore[arg-type]
        tasks.append(asyncio.create_task(known.keep()))
        return known

    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def looks(cluster: Cluster) -> None:
    """Waits for two more, of which the second began after now."""
    until = cluster.looks + 2
    async with asyncio.timeout(5):
        while cluster.looks < until:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("found", "served_by"),
    [
        ([], ""),
        ([Claim("", MINE, EARLY), Claim("", OTHER, LATE)], MINE),
        ([Claim("", MINE, LATE), Claim("", OTHER, EARLY)], OTHER),
        ([Claim("", MINE, EARLY), Claim("", OTHER, EARLY)], OTHER),  # by name, which both see alike
        ([Claim("", MINE, EARLY), Claim("team", OTHER, LATE)], OTHER),
        ([Claim("", MINE, EARLY), Claim("other-team", OTHER, EARLY)], MINE),
    ],
)
def test_who_names_a_namespace_serves_it_else_who_claimed_all_first(found: list[Claim], served_by: str) -> None:
    assert claims.owner_of("team", found) == served_by
    assert claims.owner_of("team", found[::-1]) == served_by


@pytest.mark.parametrize(
    "strange",
    [
        {"metadata": {"name": "made-by-hand", "namespace": "team", "labels": {claims.LABEL: "namespace"}}, "data": {}},
        {"metadata": {"name": claims.NAME, "namespace": "team"}, "data": {"operator": OTHER}},
        {"metadata": {"name": claims.NAME, "namespace": "team", "labels": {claims.LABEL: "all"}}},
    ],
)
def test_what_is_no_claim_claims_nothing(strange: Manifest) -> None:
    assert claims.read(strange) is None


async def test_the_younger_of_two_for_all_yields_and_takes_over(cluster: Cluster, make: Make) -> None:
    cluster.found = [claim(OTHER), claim(MINE, since=LATE)]
    known = make()
    assert known.other("team") is None and "not known yet" in known.why_idle()
    await looks(cluster)
    assert known.other("team") == OTHER
    assert known.why_idle() == f"yielding to an installation that is there already: all namespaces: served by {OTHER}"
    cluster.found = [claim(MINE, since=LATE)]
    await looks(cluster)
    assert (known.other("team"), known.why_idle()) == ("", "")


async def test_one_for_all_leaves_out_a_namespace_that_another_names(cluster: Cluster, make: Make) -> None:
    cluster.found = [claim(MINE), claim(OTHER, namespace="team", since=LATE)]
    known = make()
    await looks(cluster)
    assert (known.other("team"), known.other("rest"), known.why_idle()) == (OTHER, "", "")


async def test_two_that_name_different_namespaces_live_side_by_side(cluster: Cluster, make: Make) -> None:
    cluster.found = [claim(MINE, namespace="one"), claim(OTHER, namespace="two")]
    mine, theirs = make("one"), make("two", me=OTHER)
    await looks(cluster)
    await looks(cluster)
    assert (mine.other("one"), mine.why_idle()) == ("", "")
    assert (theirs.other("two"), theirs.why_idle()) == ("", "")


async def test_a_named_namespace_whose_claim_is_anothers_is_not_served(cluster: Cluster, make: Make) -> None:
    cluster.found = [claim(OTHER, namespace="one"), claim(MINE, namespace="two")]
    known = make("one", "two")
    await looks(cluster)
    assert (known.other("one"), known.other("two"), known.why_idle()) == (OTHER, "", "")
    cluster.found = [claim(OTHER, namespace="one"), claim(OTHER, namespace="two")]
    await looks(cluster)
    await looks(cluster)
    assert "one: served by elsewhere/milliner; two: served by elsewhere/milliner" in known.why_idle()


async def test_an_api_server_that_is_away_changes_nothing(cluster: Cluster, make: Make) -> None:
    cluster.error = errors.Unreachable(0, "no answer")
    known = make()
    await looks(cluster)
    assert known.other("team") is None  # not served before it is known whether another does
    cluster.error, cluster.found = None, [claim(OTHER)]
    await looks(cluster)
    cluster.error = errors.Unreachable(0, "no answer")
    await looks(cluster)
    assert known.other("team") == OTHER


async def test_an_operator_without_a_chart_heeds_no_claims(cluster: Cluster, make: Make) -> None:
    cluster.found = [claim(OTHER)]
    known = make(me="")
    assert (known.other("team"), known.why_idle()) == ("", "")
    await asyncio.sleep(0.01)
    assert cluster.looks == 0


async def test_passes_over_what_another_serves_do_nothing_until_it_is_gone(cluster: Cluster, make: Make) -> None:
    handled: list[tuple[str, str]] = []
    left: list[tuple[str, str]] = []

    async def handle(key: tuple[str, str]) -> float | None:
        handled.append(key)
        return None

    known = make()
    gate = claims.Gate(handle, claims=known, left=lambda *key: left.append(key))
    assert await gate(("team", "chat"))  # due again: nothing is known yet
    cluster.found = [claim(OTHER)]
    await looks(cluster)
    assert await gate(("team", "chat"))
    assert (handled, left) == ([], [("team", "chat")])
    cluster.found = []
    await looks(cluster)
    assert await gate(("team", "chat")) is None
    assert handled == [("team", "chat")]


async def test_the_log_says_whose_a_namespace_has_become(
    cluster: Cluster, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cluster.found = [claim(MINE)]
    make()
    await looks(cluster)
    cluster.found = [claim(MINE), claim(OTHER, namespace="team")]
    await looks(cluster)
    await looks(cluster)
    assert [each.getMessage() for each in caplog.records].count(f"team: served by {OTHER}") == 1
    cluster.found = [claim(MINE)]
    await looks(cluster)
    assert f"team: served by {MINE}" in caplog.text


def test_the_path_of_a_kind_in_all_namespaces() -> None:
    assert kinds.CONFIG_MAP.path("") == "/api/v1/configmaps"
    assert kinds.DEPLOYMENT.path("") == "/apis/apps/v1/deployments"
    assert kinds.CONFIG_MAP.path("team", "x") == "/api/v1/namespaces/team/configmaps/x"
