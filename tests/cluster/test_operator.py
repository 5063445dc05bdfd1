"""The operator at a real cluster with stand-in pods: until Ready, no write without a change, rollouts, faults."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest
from tests.cluster import api_server
from tests.cluster.worlds import World


@pytest.fixture(scope="module")
def scaled(world: World) -> None:
    """A topology `scaled`, in time for the test that is about it: autoscalers take their time to look."""
    world.apply("scaled", cloud={"scaling": {"minReplicas": 2, "maxReplicas": 3}})


@pytest.fixture(scope="module")
def chat(world: World) -> World:
    """With a topology `chat` that is ready."""
    world.apply("chat", cloud={"replicas": 2})
    world.until_condition("chat", "Ready", "True")
    return world


def test_ready_says_unknown_first_and_every_pod_is_admitted(chat: World) -> None:
    topology = chat.topology("chat")
    assert topology["status"]["summary"] == {"cloud": "2/2", "devices": "1/1"}
    assert topology["status"]["observedGeneration"] == 1
    assert topology["status"]["model"]["layers"] == 8
    assert not topology["metadata"].get("finalizers")
    assert not any("kopf" in each for each in topology["metadata"].get("annotations") or {})
    assert not [name for name in chat.children("chat") if name.startswith("jobs/")]


def test_an_unchanged_world_gets_no_write(chat: World) -> None:
    chat.passes("chat", 2)
    before, writes = chat.versions("chat"), chat.operator.metric("milliner_operator_writes_total")
    status = chat.topology("chat")["status"]
    chat.passes("chat", 3)
    assert chat.operator.metric("milliner_operator_writes_total") == writes
    assert chat.versions("chat") == before
    assert chat.topology("chat")["status"] == status


def test_events_tell_transitions_only_and_what_to_do(chat: World) -> None:
    before = chat.events("chat")
    chat.passes("chat", 2)
    assert chat.events("chat") == before
    assert before[-1]["reason"] == "AllRolesReady"
    assert all(earlier["reason"] != later["reason"] for earlier, later in itertools.pairwise(before))
    assert all("What to do: " in each["message"] for each in before if each["type"] == "Warning")


def test_a_restarted_operator_writes_nothing_either(chat: World) -> None:
    before = chat.versions("chat")
    assert chat.operator.stop() == 0
    chat.operator.start()
    chat.passes("chat", 2)
    assert chat.operator.metric("milliner_operator_writes_total") == 0
    assert chat.versions("chat") == before


def test_a_deleted_service_comes_back(chat: World) -> None:
    chat.server.request("DELETE", f"/api/v1/namespaces/{chat.namespace}/services/chat-cloud")
    chat.until(lambda: "services/chat-cloud" in chat.children("chat"))
    chat.until_condition("chat", "Ready", "True")


def test_what_somebody_changed_comes_back(chat: World) -> None:
    path = f"/apis/apps/v1/namespaces/{chat.namespace}/deployments/chat-cloud"
    revision = chat.server.request("GET", path)["metadata"]["generation"]
    chat.server.request("PATCH", path, body={"spec": {"replicas": 1}}, content_type=api_server.MERGE)
    chat.until(lambda: chat.server.request("GET", path)["metadata"]["generation"] >= revision + 2)
    assert chat.server.request("GET", path)["spec"]["replicas"] == 2
    chat.until_condition("chat", "Ready", "True")


def test_a_refused_spec_leaves_pods_alone(chat: World) -> None:
    pods = chat.uids("chat", "")
    chat.apply("chat", cloud={"replicas": 2}, strategy={"type": "Hat", "hat": {"splitLayer": 40}})
    chat.until_condition("chat", "Ready", "False", "SpecInvalid")
    assert chat.condition("chat", "Stalled") == ("True", "SpecInvalid")
    assert chat.uids("chat", "") == pods
    chat.apply("chat", cloud={"replicas": 2})
    chat.until_condition("chat", "Ready", "True")
    assert chat.uids("chat", "") == pods


def test_new_sources_are_inspected_while_the_old_pods_serve(chat: World) -> None:
    pods = chat.uids("chat", "chat-cloud") | chat.uids("chat", "chat-device")
    chat.apply("chat", cloud={"replicas": 2}, model={"source": "builtin://missing"})
    chat.until_condition("chat", "ModelReady", "False", "ModelNotFound")
    assert chat.condition("chat", "Ready")[0] == "False"
    chat.server.request("DELETE", chat.path("services", "chat-cloud"))  # of the spec that is still in force
    chat.until(lambda: "services/chat-cloud" in chat.children("chat"))
    assert chat.uids("chat", "chat-cloud") | chat.uids("chat", "chat-device") == pods
    chat.apply("chat", cloud={"replicas": 2})
    chat.until_condition("chat", "Ready", "True")


def test_a_change_of_one_role_replaces_only_its_pods_and_a_revert_converges(chat: World) -> None:
    clouds, devices = chat.uids("chat", "cloud"), chat.uids("chat", "device")
    revision = chat.topology("chat")["status"]["cloud"]["revision"]
    chat.apply("chat", cloud={"replicas": 2, "engine": {"maxSessions": 8}})
    chat.until(lambda: bool(chat.uids("chat", "cloud") - clouds))
    chat.operator.stop(signal.SIGKILL)  # in mid-rollout
    chat.apply("chat", cloud={"replicas": 2})
    chat.operator.start()
    chat.until_condition("chat", "Ready", "True")
    assert chat.topology("chat")["status"]["cloud"]["revision"] == revision
    assert chat.uids("chat", "device") == devices


def test_scale_is_a_subresource(chat: World) -> None:
    path = f"{api_server.topologies(chat.namespace, 'chat')}/scale"
    scale = chat.server.request("GET", path)
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    chat.server.request("PATCH", path, body={"spec": {"replicas": 3}}, content_type=api_server.MERGE)
    chat.until(lambda: chat.topology("chat")["status"]["summary"]["cloud"] == "3/3")
    chat.until_condition("chat", "Ready", "True")


FAULTS = [
    ({"model": {"source": "builtin://missing"}}, "ModelReady", "ModelNotFound"),
    ({"model": {"source": "builtin://demo", "servedName": "crash"}}, "CloudReady", "CrashLoop"),
    ({"cloud": {"pod": {"nodeSelector": {"no": "such"}}}}, "CloudReady", "Unschedulable"),
    ({"cloud": {"accelerator": {"resourceName": "example.com/none"}}}, "CloudReady", "InsufficientCapacity"),
    ({"devicePools": [{"name": "p", "nodeSelector": {"no": "such"}}]}, "DevicesReady", "NoMatchingNodes"),
    ({"devicePools": [{"name": "p", "api": {"exposure": "HostPort"}}]}, "DevicesReady", "PodRefused"),
    ({"model": {"source": "builtin://demo", "digest": "sha256:" + "0" * 64}}, "ModelReady", "ModelDigestMismatch"),
    ({"strategy": {"type": "Hat", "hat": {"splitLayer": 7, "tailLayers": 1}}}, "SpecValid", "SpecInvalid"),
]


@pytest.mark.parametrize(("spec", "condition", "reason"), FAULTS, ids=[each[2] for each in FAULTS])
def test_faults_are_named_and_mended(
    world: World, scaled: None, spec: dict[str, Any], condition: str, reason: str
) -> None:
    name = f"fault-{reason.lower()}"
    if reason == "Unschedulable":  # the inspect Job runs where the cloud does: it must have answered before
        world.apply(name)
        world.until_condition(name, "ModelReady", "True")
    world.apply(name, **spec)
    world.until_condition(name, condition, "False", reason)
    assert world.condition(name, "Ready")[0] == "False"
    world.apply(name)
    world.until_condition(name, "Ready", "True")
    world.delete(name)


ABSENT = "127.0.0.1:9/milliner/runtime:absent"  # of the node itself: pulling fails at once
FETCHED: dict[str, Any] = {  # unlike the demo model it does not come with the image
    "model": {"source": "https://models.test/demo"},
    "strategy": {"type": "Hat", "hat": {"adapter": {"source": "https://models.test/adapter"}}},
}


def test_an_absent_image_is_named_on_both_tiers(world: World) -> None:
    absent = world.elsewhere(world.server.create_namespace("milliner-absent-"), image=ABSENT)
    absent.operator.start()
    try:
        absent.know("chat", **FETCHED)
        absent.apply("chat", **FETCHED)
        for tier in ("CloudReady", "DevicesReady"):
            absent.until_condition("chat", tier, "False", "ImagePullFailed")
            told = absent.topology("chat")["status"]["conditions"]
            assert ABSENT in next(each["message"] for each in told if each["type"] == tier)
        assert absent.condition("chat", "Ready") == ("False", "ImagePullFailed")
    finally:
        absent.operator.stop(signal.SIGKILL)
        world.server.delete_namespace(absent.namespace)


def test_a_child_of_somebody_else_is_left_alone(world: World) -> None:
    theirs: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceAccount"}
    theirs |= {"metadata": {"name": "mine-cloud", "annotations": {"a": "b"}}}
    path = f"/api/v1/namespaces/{world.namespace}/serviceaccounts"
    world.server.request("POST", path, body=theirs)
    world.apply("mine")
    world.until_condition("mine", "CloudReady", "False", "ChildNotOwned")
    assert world.server.request("GET", f"{path}/mine-cloud")["metadata"]["annotations"] == {"a": "b"}
    world.server.request("DELETE", f"{path}/mine-cloud")
    world.until_condition("mine", "Ready", "True")
    world.delete("mine")


def test_an_autoscaler_says_what_it_lacks(world: World, scaled: None) -> None:
    world.until_condition("scaled", "Ready", "True")
    world.until(lambda: world.condition("scaled", "ScalingReady")[0] in ("True", "False"), name="scaled")
    world.until(lambda: world.topology("scaled")["status"]["cloud"]["desired"] == 2, name="scaled")
    world.delete("scaled")


def test_a_dropped_pool_and_an_option_leave_nothing_behind(world: World) -> None:
    pools = [{"name": "a", "replicas": 1}, {"name": "b"}]
    world.apply("dropped", devicePools=pools, cloud={"scaling": {"maxReplicas": 2}})
    wanted = {"daemonsets/dropped-device-b", "horizontalpodautoscalers/dropped-cloud"}
    world.until(lambda: wanted <= world.children("dropped").keys(), name="dropped")
    world.apply("dropped")
    world.until(
        lambda: not [each for each in world.children("dropped") if "device-b" in each or "autoscaler" in each],
        name="dropped",
    )
    world.delete("dropped")


def test_deletion_leaves_nothing_behind_with_the_operator_stopped(chat: World) -> None:
    chat.until_condition("chat", "Ready", "True")
    chat.operator.stop()
    chat.delete("chat")
    chat.until(lambda: not chat.children("chat"))
    chat.operator.start()
