"""What a pass does with what it found: writes, Events, finalizer. With an API server it is shown in tests/cluster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner.contract import errors as contract_errors
from milliner.contract import topology
from milliner_operator import errors, events, executor, kinds, observed, planner, remote, status, workloads
from milliner_operator.children import common
from milliner_operator.conditions import GUIDES, Reason, Type
from milliner_operator.observed import Manifest, Ref
from milliner_operator.sameness import FIELD_MANAGER


def applied(manifest: Manifest) -> Manifest:
    """A manifest as an API server has it once this operator has applied it."""
    stored = copy.deepcopy(manifest)
    fields = {f"f:{key}": owned(value) for key, value in manifest.items() if key not in ("kind", "apiVersion")}
    stored["metadata"] |= {
        "uid": f"uid-{manifest['kind']}-{manifest['metadata']['name']}",
        "resourceVersion": "7",
        "managedFields": [{"manager": FIELD_MANAGER, "operation": "Apply", "fieldsV1": fields}],
    }
    return stored


def owned(value: Any) -> dict[str, Any]:
    return {f"f:{key}": owned(below) for key, below in value.items()} if isinstance(value, dict) else {}


def world(manifests: tuple[Manifest, ...]) -> dict[Ref, Manifest]:
    return {observed.ref(each): applied(each) for each in manifests}


def refs(manifests: tuple[Manifest, ...]) -> list[Ref]:
    return [observed.ref(each) for each in manifests]


def decided(wanted: tuple[Manifest, ...], live: Mapping[Ref, Manifest], **options: Any) -> executor.Steps:
    return executor.decide(wanted, uid=worlds.UID, live=live, **{"complete": True} | options)


def test_nothing_is_written_where_everything_is_there() -> None:
    wanted = worlds.planned().local
    assert decided(wanted, world(wanted)) == executor.Steps()


def test_what_pods_mount_and_obey_is_applied_before_the_pods() -> None:
    steps = decided(worlds.planned().local, {})
    order = [kind for kind, _ in refs(steps.apply)]
    assert len(order) == len(worlds.planned().local)
    assert order.index("Deployment") > max(order.index(each) for each in ("ConfigMap", "NetworkPolicy", "Service"))


def test_only_what_differs_is_applied() -> None:
    wanted = worlds.planned().local
    live = world(wanted)
    live["Service", "chat-cloud"]["spec"]["ports"][0]["port"] = 1
    assert refs(decided(wanted, live).apply) == [("Service", "chat-cloud")]


def test_what_is_no_longer_wanted_goes_last_and_only_by_a_complete_plan() -> None:
    wanted = worlds.planned().local
    live = world((*worlds.planned({"spec.devicePools": [{"name": "old", "replicas": 1}]}).local, *wanted))
    gone = decided(wanted, live).delete_last
    assert {name for kind, name in gone if kind != "ConfigMap"} == {"chat-device-old"} and (
        "Deployment",
        "chat-device-old",
    ) in gone
    assert decided(wanted, live, complete=False) == executor.Steps()


def test_what_is_leaving_or_somebody_elses_is_not_deleted() -> None:
    wanted = worlds.planned().local
    live = world((*worlds.planned({"spec.devicePools": [{"name": "old", "replicas": 1}]}).local, *wanted))
    live["Deployment", "chat-device-old"]["metadata"]["deletionTimestamp"] = worlds.STAMP
    live["Service", "chat-device-old"]["metadata"]["ownerReferences"][0]["uid"] = "uid-other"
    gone = decided(wanted, live).delete_last
    assert gone and not {("Deployment", "chat-device-old"), ("Service", "chat-device-old")} & set(gone)


def test_what_a_plan_does_not_want_goes_at_once_even_if_it_is_incomplete() -> None:
    wanted = worlds.planned().local
    live, ref = world(wanted), ("Deployment", "chat-cloud")
    steps = decided(tuple(each for each in wanted if observed.ref(each) != ref), live, unwanted=[ref], complete=False)
    assert steps == executor.Steps(delete_first=(ref,))
    assert refs(decided(wanted, live, unwanted=[ref]).apply) == [ref]  # and is made anew where it is wanted
    assert decided((), {}, unwanted=[ref]) == executor.Steps()


def test_what_is_of_a_pool_that_waits_is_left_alone_and_the_rest_goes() -> None:
    wanted = worlds.planned().local
    pools = [{"name": each, "replicas": 1} for each in ("gone", "waits")]
    live = world((*worlds.planned({"spec.devicePools": pools}).local, *wanted))
    gone = decided(wanted, live, awaiting=["waits"]).delete_last
    assert ("Deployment", "chat-device-gone") in gone
    assert not [name for _, name in gone if "waits" in name]


def owner(**changes: Any) -> dict[str, Any]:
    return {**common.owner_reference(worlds.scope()), "controller": True} | changes


@pytest.mark.parametrize(
    ("owners", "labels", "reason", "words"),
    [
        ([owner(uid="uid-before")], {}, Reason.RECONCILING, "was deleted"),
        ([owner(uid="uid-other", name="other")], {}, Reason.CHILD_NOT_OWNED, "InferenceTopology other"),
        ([owner(uid="uid-other", kind="Deployment")], {}, Reason.CHILD_NOT_OWNED, "Deployment chat"),
        ([], {common.LABEL_TOPOLOGY_UID: "uid-there"}, Reason.CHILD_NOT_OWNED, "uid-there, which another cluster"),
        ([], {common.LABEL_MANAGED_BY: "helm"}, Reason.CHILD_NOT_OWNED, "somebody else"),
        ([], {}, None, ""),
    ],
)
async def test_what_is_somebody_elses_is_not_written(
    owners: list[dict[str, Any]], labels: dict[str, str], reason: Reason | None, words: str
) -> None:
    """A topology that was deleted and made again stalled on its own children, and two clusters with topologies of one
    name took their pool in a third from one another for ever."""
    [wanted] = [each for each in worlds.planned().local if observed.ref(each) == ("Service", "chat-cloud")]
    found = copy.deepcopy(wanted)
    found["metadata"]["ownerReferences"] = owners
    found["metadata"]["labels"] |= labels

    class Cluster:
        applied = 0

        async def get(self, *_: Any) -> Manifest:
            return found

        async def apply(self, manifest: Manifest) -> Manifest:
            self.applied += 1
            return manifest

    cluster = Cluster()
    outcome = await executor.execute(
        cluster,  # type: ignore[arg-type]
        namespace="default",
        uid=worlds.UID,
        wanted=[wanted],
        live={},
        complete=True,
    )
    trouble = outcome.troubles.get("cloud")
    assert (trouble and trouble.reason) == reason
    assert trouble is None or words in trouble.message
    assert cluster.applied == (1 if reason is None else 0)


async def test_a_deletion_that_is_refused_is_told_and_holds_nothing_else_up() -> None:
    """A policy against deleting ConfigMaps failed every pass, and the status stood still."""
    old = worlds.planned({"spec.devicePools": [{"name": "old", "replicas": 1}]}).local
    live = world(old)

    class Cluster:
        deleted: list[str]

        def __init__(self) -> None:
            self.deleted = []

        async def delete(self, kind: kinds.Kind, namespace: str, name: str, *, uid: str) -> None:
            if kind is kinds.CONFIG_MAP:
                raise errors.Refused(422, "denied by policy")
            self.deleted.append(name)

    cluster = Cluster()
    outcome = await executor.execute(
        cluster,  # type: ignore[arg-type]
        namespace="default",
        uid=worlds.UID,
        wanted=(),
        live=live,
        complete=True,
    )
    left = {kind for kind, _ in outcome.objects}
    assert left == {"ConfigMap"} and len(cluster.deleted) == outcome.writes > 0
    trouble = outcome.troubles["device"]
    assert trouble.reason is Reason.RECONCILE_ERROR and "cannot be deleted: denied by policy" in trouble.message


def ready(status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": message}]}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ({}, ready("Unknown", "Reconciling"), "Normal"),
        (ready("Unknown", "Reconciling"), ready("True", "AllRolesReady"), "Normal"),
        (ready("True", "AllRolesReady"), ready("False", "CrashLoop"), "Warning"),
        (ready("True", "AllRolesReady"), ready("False", "Updating"), "Normal"),
        (ready("True", "AllRolesReady"), ready("False", "ScaledToZero"), "Normal"),
        (ready("False", "CrashLoop", "pod a"), ready("False", "CrashLoop", "pod b"), None),
        (ready("True", "AllRolesReady"), ready("True", "AllRolesReady"), None),
    ],
)
def test_events_tell_transitions_only(before: dict[str, Any], after: dict[str, Any], kind: str | None) -> None:
    found = events.of_transitions(worlds.document(), before=before, after=after, now=worlds.STAMP)
    assert [each["type"] for each in found] == ([kind] if kind else [])


def test_an_event_of_what_goes_wrong_says_what_to_do() -> None:
    after = ready("False", "CrashLoop", "pod chat-cloud-1: exit code 1, restarted 4 times")
    [event] = events.of_transitions(worlds.document(), before={}, after=after, now=worlds.STAMP)
    assert event["message"].startswith(
        "pod chat-cloud-1: exit code 1, restarted 4 times. What to do: Read `kubectl logs"
    )
    [event] = events.of_transitions(
        worlds.document(), before=after, after=ready("True", "AllRolesReady", "all roles serve"), now=worlds.STAMP
    )
    assert event["message"] == "all roles serve"


def test_a_long_message_is_cut_to_what_the_api_server_takes_and_still_says_what_to_do() -> None:
    after = ready("False", "CrashLoop", "ö" * 2000)
    [event] = events.of_transitions(worlds.document(), before={}, after=after, now=worlds.STAMP)
    assert 1020 <= len(event["message"].encode()) <= 1024
    assert event["message"].endswith(GUIDES[Reason.CRASH_LOOP].remedy)
    assert event["involvedObject"]["uid"] == worlds.UID


def test_a_deletion_that_waits_is_told_once() -> None:
    before = ready("False", "DeviceUnreachable", "pool orin: its cluster does not answer")
    problems = ["cluster of Secret edge: no answer within 8 s"]
    after = status.leaving(2, problems=problems, before=before, now=worlds.STAMP)
    [event] = events.of_transitions(worlds.document(), before=before, after=after, now=worlds.STAMP)
    assert (event["type"], event["reason"]) == ("Warning", "CleanupPending")
    assert "no answer within 8 s" in event["message"] and "delete the Secret" in event["message"]
    assert status.leaving(2, problems=problems, before=after, now="later") == after
    assert events.of_transitions(worlds.document(), before=after, after=after, now="later") == []


@pytest.mark.parametrize(
    ("planned", "recorded", "has", "needed"),
    [
        (True, True, False, True),  # the first children are about to be made there
        (False, True, False, False),  # a pool names a cluster, nothing was ever made there
        (False, True, True, True),  # a spec that is refused meanwhile: what was made is still there
        (False, False, True, False),  # nothing is left there
    ],
)
def test_deletion_waits_as_long_as_another_cluster_may_hold_children(
    planned: bool, recorded: bool, has: bool, needed: bool
) -> None:
    assert remote.needs_finalizer(planned=planned, recorded=recorded, has=has) is needed


def test_a_spec_that_does_not_parse_is_told_in_the_same_words() -> None:
    with pytest.raises(contract_errors.SpecInvalid) as caught:
        topology.parse(worlds.document({"spec.cloud": {"replicas": 2, "scaling": {"maxReplicas": 4}}}))
    found = planner.refusal(caught.value).condition(Type.SPEC_VALID)
    assert found is not None and (found.status, found.reason) == (False, Reason.SPEC_INVALID)
    assert "cloud.replicas and cloud.scaling are both set" in found.message


def test_progress_of_a_workload_that_is_not_there() -> None:
    assert workloads.progress(None) == workloads.Progress()
    assert not workloads.Progress().complete
