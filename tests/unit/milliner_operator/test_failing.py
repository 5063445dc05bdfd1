"""Passes that raise: the status does not go on saying what was true before, and one failure does not make it flap."""

from __future__ import annotations

import asyncio
from typing import Any

import prometheus_client
import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import errors, failing, kinds, reconcile
from milliner_operator.metrics import Metrics
from milliner_operator.observed import Manifest

KEY = ("default", "chat")


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    content = {"type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": 1}
    return {**content, "lastTransitionTime": "2026-11-21T10:00:00Z"}


class Cluster:
    """A cluster that has one topology and, once it is `broken`, fails to list its children."""

    def __init__(self, ready: tuple[str, str]) -> None:
        self.topology = worlds.document()
        self.topology["metadata"] |= {"generation": 2, "resourceVersion": "7"}
        self.topology["status"] = {
            "observedGeneration": 1,
            "conditions": [condition("Ready", *ready), condition("CloudReady", "True", "AllPodsReady")],
        }
        self.broken: Exception = errors.Forbidden(403, "may not list secrets")

    async def get(self, kind: kinds.Kind, namespace: str, name: str) -> Manifest:
        return self.topology

    async def list(self, kind: kinds.Kind, namespace: str, **_: Any) -> list[Manifest]:
        raise self.broken

    async def apply_status(self, namespace: str, name: str, status: dict[str, Any], *, version: str) -> Manifest:
        if version != self.topology["metadata"]["resourceVersion"]:
            raise errors.Conflict(409, "the object has been modified")
        self.topology["status"] = status
        return self.topology

    async def create(self, kind: kinds.Kind, manifest: Manifest) -> Manifest:
        return manifest

    def condition(self, kind: str) -> dict[str, Any]:
        return next(each for each in self.topology["status"]["conditions"] if each["type"] == kind)


def reconciler(cluster: Cluster) -> reconcile.Reconciler:
    metrics = Metrics(prometheus_client.CollectorRegistry())
    return reconcile.Reconciler(
        cluster,  # type: ignore[arg-type]
        settings=worlds.SETTINGS,
        clusters=None,  # type: ignore[arg-type]
        metrics=metrics,
        now=lambda: worlds.NOW,
    )


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (("True", "AllRolesReady"), "Unknown"),
        (("Unknown", "DeviceUnreachable"), "Unknown"),
        (("False", "PodsNotReady"), "False"),
        (("Unknown", "Reconciling"), "False"),
    ],
)
@pytest.mark.parametrize(
    ("error", "words"),
    [(errors.Forbidden(403, "may not list secrets"), "may not list secrets"), (KeyError("spec"), "KeyError: 'spec'")],
)
async def test_ready_does_not_stay_true_while_passes_fail(
    was: tuple[str, str], becomes: str, error: Exception, words: str
) -> None:
    cluster = Cluster(was)
    cluster.broken = error
    passes = reconciler(cluster)
    for _ in range(2):
        with pytest.raises((type(error), ExceptionGroup)):
            await passes(KEY)
        assert cluster.condition("Ready")["status"] == was[0], "one failure or two say nothing"
    with pytest.raises((type(error), ExceptionGroup)):
        await passes(KEY)
    ready = cluster.condition("Ready")
    assert (ready["status"], ready["reason"]) == (becomes, "ReconcileError")
    assert words in ready["message"] and ready["observedGeneration"] == 2
    assert cluster.condition("CloudReady")["status"] == "True", "what was seen stands"


async def test_a_pass_that_does_not_end_in_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(("True", "AllRolesReady"))

    async def hang(*_: Any, **__: Any) -> list[Manifest]:
        await asyncio.sleep(3600)
        return []

    monkeypatch.setattr(reconcile, "_PASS_S", 0.001)
    monkeypatch.setattr(failing, "_FAILURES", 1)
    monkeypatch.setattr(cluster, "list", hang)
    with pytest.raises(TimeoutError):
        await reconciler(cluster)(KEY)
    assert "does not end in time" in cluster.condition("Ready")["message"]


async def test_a_status_is_of_the_topology_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted and made anew in mid-pass, a topology got the status of the one before it."""
    cluster = Cluster(("True", "AllRolesReady"))
    monkeypatch.setattr(failing, "_FAILURES", 1)

    async def replace(*_: Any, **__: Any) -> list[Manifest]:
        cluster.topology = worlds.document()
        cluster.topology["metadata"] |= {"generation": 1, "resourceVersion": "8", "uid": "uid-new"}
        raise errors.Forbidden(403, "may not list")

    seen = dict(cluster.topology)

    async def stale(*_: Any) -> Manifest:
        return seen

    monkeypatch.setattr(cluster, "list", replace)
    monkeypatch.setattr(cluster, "get", stale)
    with pytest.raises(errors.Forbidden):
        await reconciler(cluster)(KEY)
    assert "status" not in cluster.topology


def test_slow_failures_are_told_after_half_a_minute_and_a_success_forgets_them() -> None:
    now = 0.0
    found = failing.Failing(now=lambda: now)
    assert not found.failed(KEY)
    now = 31.0
    assert found.failed(KEY)
    found.ended_well(KEY)
    assert not found.failed(KEY)


def test_of_looks_side_by_side_the_failure_itself_is_told() -> None:
    found = failing.words(ExceptionGroup("unhandled errors in a TaskGroup", [errors.Failed(500, "webhook is down")]))
    assert found == "the API server's answer 500: webhook is down"


def test_a_second_failure_of_the_same_words_changes_nothing() -> None:
    before = {"conditions": [condition("Ready", "True", "AllRolesReady")]}
    once = failing.status(2, message="x", before=before, now=worlds.STAMP)
    assert failing.status(2, message="x", before=once, now="2026-11-21T13:00:00Z") == once
