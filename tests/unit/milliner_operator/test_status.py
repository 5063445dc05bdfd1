"""The status document from what was seen: first status, what readiness needs beside pods, whose troubles are told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import observed, status
from milliner_operator.conditions import Reason
from milliner_operator.observed import Probe, RemoteCluster, Sightings, Trouble
from milliner_operator.seen import Seen

GOOD = Probe(ok=True, reason="", model_digest=worlds.DIGEST, round_trip_us=21_000, ttft_ms=40, tokens_per_second=30)


def serving(probe: Probe | None = GOOD, changes: dict[str, Any] | None = None) -> Seen:
    """A topology whose workloads are all brought about; its pool's probe answered so."""
    plan = worlds.planned(changes)
    objects = {
        observed.ref(each): worlds.serving(each) if each["kind"] in ("Deployment", "DaemonSet") else each
        for each in plan.local
    }
    sightings = Sightings(probes={} if probe is None else {"local": probe})
    return Seen(
        topology="chat", generation=1, plan=plan, objects=objects, clusters={}, troubles={}, sightings=sightings
    )


def built(seen: Seen, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return status.build(seen, before=before or {}, now=worlds.STAMP)


def condition(document: Mapping[str, Any], kind: str = "Ready") -> tuple[str, str]:
    found = next(each for each in document["conditions"] if each["type"] == kind)
    return found["status"], found["reason"]


def test_the_first_status_says_that_ready_is_unknown() -> None:
    document = status.first(3, now=worlds.STAMP)
    assert document["observedGeneration"] == 3
    assert condition(document) == ("Unknown", "Reconciling")


def test_a_status_of_the_same_is_the_same() -> None:
    document = built(serving())
    assert condition(document) == ("True", "AllRolesReady")
    assert document["summary"] == {"cloud": "1/1", "devices": "1/1"}
    assert built(serving(), before=document) == document


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        (None, ("False", "StreamProbeFailed")),
        (Probe(ok=False, reason="no cloud replica answers"), ("False", "StreamProbeFailed")),
        (dataclasses.replace(GOOD, model_digest="sha256:" + "e" * 64), ("False", "ModelDigestMismatch")),
    ],
)
def test_pods_that_are_ready_are_not_enough(probe: Probe | None, expected: tuple[str, str]) -> None:
    assert condition(built(serving(probe))) == expected


def test_figures_move_only_by_a_tenth() -> None:
    before = built(serving())
    assert built(serving(dataclasses.replace(GOOD, round_trip_us=22_900)), before=before) == before
    moved = built(serving(dataclasses.replace(GOOD, round_trip_us=24_000)), before=before)
    assert moved["probe"]["roundTripMicroseconds"] == 24_000


@pytest.mark.parametrize("stages", [1, 2])
def test_a_cloud_that_is_scaled_to_zero_says_so_and_is_no_fault(stages: int) -> None:
    resting = {"spec.cloud": {"replicas": 0, "pipelineStages": stages}}
    document = built(serving(Probe(ok=False, reason="no cloud replica answers"), resting))
    assert condition(document) == condition(document, "CloudReady") == ("False", "ScaledToZero")
    assert condition(document, "Progressing") == ("False", "RolloutComplete")
    assert document["summary"] == {"cloud": "0/0", "devices": "1/1"}
    assert not any(each["type"] in ("Stalled", "Reconciling") for each in document["conditions"])


def test_devices_that_wait_for_a_cloud_at_rest_are_not_stalled() -> None:
    seen = serving(Probe(ok=False, reason="no cloud replica answers"), {"spec.cloud": {"replicas": 0}})
    ref = ("Deployment", "chat-device-local")
    waiting = worlds.serving(seen.objects[ref], ready=0)
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    waiting["status"]["conditions"] = [late]
    document = built(dataclasses.replace(seen, objects={**seen.objects, ref: waiting}))
    assert condition(document) == ("False", "ScaledToZero")
    assert not any(each["type"] == "Stalled" for each in document["conditions"])


def test_a_pool_whose_rollout_stands_still_at_a_device_is_stalled() -> None:
    seen = serving(changes={"spec.devicePools": [{"name": "local"}]})
    ref = ("DaemonSet", "chat-device-local")
    half = {**seen.objects, ref: worlds.serving(seen.objects[ref], ready=0)}
    moving = dataclasses.replace(seen, objects=half)
    assert condition(built(moving), "Progressing") == ("True", "NewRevision")
    stuck = dataclasses.replace(moving, sightings=dataclasses.replace(seen.sightings, stuck=frozenset({ref})))
    document = built(stuck)
    assert condition(document, "Progressing") == ("False", "ProgressDeadlineExceeded")
    assert condition(document, "DevicesReady") == ("False", "ProgressDeadlineExceeded")
    assert condition(document, "Stalled") == ("True", "ProgressDeadlineExceeded")


def test_what_could_not_be_applied_is_told() -> None:
    refused = {"cloud": Trouble(Reason.RECONCILE_ERROR, "PodDisruptionBudget chat-cloud: quota exceeded")}
    document = built(dataclasses.replace(serving(), troubles=refused))
    assert condition(document, "CloudReady") == ("False", "ReconcileError")
    assert "quota exceeded" in document["conditions"][0]["message"]


EDGE = observed.ClusterRef("edge", "kubeconfig")
SILENT = RemoteCluster(error="cluster of Secret edge: no route to host")


def elsewhere(changes: dict[str, Any] | None = None, *, pool: str = "local") -> Seen:
    """A topology whose pool is in a cluster that does not answer."""
    seen = serving(changes=changes)
    roles = (dataclasses.replace(each, cluster=EDGE) if each.pool == pool else each for each in seen.plan.roles)
    plan = dataclasses.replace(seen.plan, roles=tuple(roles))
    probes = {name: probe for name, probe in seen.sightings.probes.items() if name != pool}
    sightings = dataclasses.replace(seen.sightings, probes=probes)
    return dataclasses.replace(seen, plan=plan, clusters={EDGE: SILENT}, sightings=sightings)


def test_a_certificate_that_could_not_be_applied_is_told_under_tls() -> None:
    refused = {"tls": Trouble(Reason.CHILD_NOT_OWNED, "Secret chat-cloud-tls exists and belongs to somebody else")}
    document = built(dataclasses.replace(serving(), troubles=refused))
    assert condition(document) == condition(document, "TLSReady") == ("False", "ChildNotOwned")
    assert condition(document, "ModelReady")[0] == "True"


def test_a_cluster_that_does_not_answer_harms_only_its_pool() -> None:
    document = built(elsewhere())
    assert condition(document, "DevicesReady") == ("False", "DeviceUnreachable")
    assert condition(document, "CloudReady")[0] == "True"


def test_of_a_pool_in_a_cluster_that_does_not_answer_nothing_is_claimed() -> None:
    document = built(elsewhere())
    assert document["summary"] == {"cloud": "1/1", "devices": "?/?"}
    [pool] = document["devicePools"]
    assert pool["cluster"] == "edge" and not {"ready", "desired", "updated"} & pool.keys()
    assert condition(document, "Progressing") == ("Unknown", "DeviceUnreachable")
    assert condition(document, "StreamReady") == ("Unknown", "DeviceUnreachable")
    both = [{"name": "local", "replicas": 1}, {"name": "orin", "replicas": 1}]
    document = built(elsewhere({"spec.devicePools": both}, pool="orin"))
    assert document["summary"]["devices"] == "1/?"
    assert [each.get("ready") for each in document["devicePools"]] == [1, None]
    assert condition(document, "StreamReady") == ("Unknown", "DeviceUnreachable")


def test_what_is_left_in_a_cluster_that_no_pool_is_in_any_more_is_told_and_nothing_else() -> None:
    document = built(dataclasses.replace(serving(), clusters={EDGE: SILENT}))
    assert condition(document) == ("True", "AllRolesReady")
    assert condition(document, "CleanupPending") == ("True", "CleanupPending")
    given_up = dataclasses.replace(SILENT, given_up=True)
    assert built(dataclasses.replace(serving(), clusters={EDGE: given_up})) == built(serving())


@pytest.mark.parametrize("before", [{"later": 1}, {"tokensPerSecond": -3}])
def test_a_probe_in_another_versions_form_is_measured_anew(before: dict[str, Any]) -> None:
    """After a rollback of the operator the status had fields that it did not know, and every pass ended there."""
    assert built(serving(), before={"probe": before})["probe"]["tokensPerSecond"] == 30
    assert "probe" not in built(serving(None), before={"probe": before})


@pytest.mark.parametrize(
    ("counts", "expected", "told"),
    [
        ((3, 1, 1, 1), "PodsNotReady", "1 of 3 ready; scaling up"),
        ((3, 3, 3, 1), "PodsNotReady", "1 of 3 ready, 3 in the current revision"),
        ((1, 2, 2, 2), "PodsNotReady", "2 of 1 ready; scaling down"),
        ((3, 1, 3, 3), "Updating", "3 of 3 ready, 1 in the current revision"),
        ((3, 1, 2, 2), "Updating", "2 of 3 ready, 1 in the current revision"),
    ],
)
def test_a_cloud_that_merely_scales_is_not_updating(
    counts: tuple[int, int, int, int], expected: str, told: str
) -> None:
    """It was told to have pods of an older revision, and to bring a new one out."""
    desired, updated, total, ready = counts
    seen = serving(changes={"spec.cloud.replicas": desired})
    name = ("Deployment", "chat-cloud")
    figures = {"updatedReplicas": updated, "replicas": total, "readyReplicas": ready}
    deployment = seen.objects[name] | {"status": seen.objects[name]["status"] | figures}
    document = built(dataclasses.replace(seen, objects={**seen.objects, name: deployment}))
    assert condition(document, "CloudReady") == ("False", expected)
    assert told in next(each["message"] for each in document["conditions"] if each["type"] == "CloudReady")
    rolls = ("True", "NewRevision") if expected == "Updating" else ("False", "RolloutComplete")
    assert condition(document, "Progressing") == rolls


def test_the_commit_that_is_served_is_told() -> None:
    seen = serving()
    assert seen.plan.facts is not None and "revision" not in built(seen)["model"]
    facts = seen.plan.facts.model_copy(update={"model_commit": "a" * 40})
    plan = dataclasses.replace(seen.plan, facts=facts)
    assert built(dataclasses.replace(seen, plan=plan))["model"]["revision"] == "a" * 40
