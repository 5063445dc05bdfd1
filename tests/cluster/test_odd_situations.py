"""The operator where much happens at once or goes wrong: it converges, looks no oftener than it must, fights nobody."""

from __future__ import annotations

import concurrent.futures
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import api_server, fake_nodes, operator_process, played_nodes
from tests.cluster.worlds import PASSES, World

EDITS = 200
AT_ONCE = 20


@pytest.fixture(scope="module")
def nodes(world: World) -> Iterator[None]:
    """A few fake nodes, where pods are ready as soon as they are placed."""
    fake_nodes.make(2)
    try:
        yield
    finally:
        world.operator.stop(signal.SIGKILL)
        played_nodes.end_pods(world)
        fake_nodes.delete(world.server)


@pytest.fixture(scope="module")
def fake(world: World, nodes: None) -> World:
    """With a topology `fake`, all of whose pods are on fake nodes: both tiers get ready, the stream never does."""
    world.know("fake", **fake_nodes.FAKE)
    world.apply("fake", **fake_nodes.FAKE)
    world.until_condition("fake", "DevicesReady", "True")
    world.until_condition("fake", "CloudReady", "True")
    return world


def cloud(**options: Any) -> dict[str, Any]:
    return fake_nodes.FAKE | {"cloud": fake_nodes.FAKE["cloud"] | options}


def configured(world: World, name: str) -> dict[str, Any]:
    """The cloud's configuration as its pods have it."""
    deployment = world.server.request("GET", world.path("deployments", f"{name}-cloud"))
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    config_map = next(each["configMap"]["name"] for each in volumes if each["name"] == "config")
    text = world.server.request("GET", world.path("configmaps", config_map))["data"]["config.json"]
    found: dict[str, Any] = json.loads(text)
    return found


def test_two_hundred_edits_in_a_row_cost_a_pass_a_second(fake: World) -> None:
    before, started = fake.operator.metric(PASSES), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda each: fake.apply("fake", **cloud(engine={"maxSessions": each})), range(1, EDITS)))
    fake.apply("fake", **cloud(engine={"maxSessions": EDITS}))
    fake.until(lambda: f'"maxSessions": {EDITS}' in json.dumps(configured(fake, "fake")), name="fake")
    fake.until_condition("fake", "CloudReady", "True")
    assert fake.operator.metric(PASSES) - before <= time.monotonic() - started + 2


def test_twenty_at_once_and_gone_at_once_leave_nothing(fake: World) -> None:
    names = [f"brief-{number}" for number in range(AT_ONCE)]
    for name in names:
        fake.know(name, **fake_nodes.FAKE)
    started = fake.operator.metric(PASSES)
    for name in names:
        fake.apply(name, **fake_nodes.FAKE)
    fake.until(lambda: fake.operator.metric(PASSES) > started + AT_ONCE / 4)  # in the middle of making them
    for name in names:
        fake.delete(name)
    # the facts of those that the operator came too late for are the test's own
    fake.until(lambda: not any(fake.children(name).keys() - {f"configmaps/{name}-facts"} for name in names))
    fake.until(lambda: fake.operator.metric("milliner_operator_queue_length") == 0)
    before = fake.operator.metric(PASSES)
    time.sleep(3)
    assert fake.operator.metric(PASSES) - before <= 2  # of the one that is there
    assert "Traceback" not in fake.operator.log


def test_a_foreign_object_that_looks_like_a_child_is_told_of_and_left_alone(fake: World) -> None:
    holder = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "holder"}}
    uid = fake.server.request("POST", fake.path("configmaps"), body=holder)["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "holder", "uid": uid, "controller": True}
    labels = {"milliner.dev/topology": "foreign", "app.kubernetes.io/managed-by": "milliner-operator"}
    metadata = {"name": "foreign-cloud", "labels": labels, "ownerReferences": [owner]}
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 1}]}}
    made = fake.server.request("POST", fake.path("services"), body=theirs)
    fake.know("foreign", **fake_nodes.FAKE)
    fake.apply("foreign", **fake_nodes.FAKE)
    fake.until_condition("foreign", "CloudReady", "False", "ChildNotOwned")
    status = fake.topology("foreign")["status"]
    [message] = [each["message"] for each in status["conditions"] if each["type"] == "CloudReady"]
    assert "Service foreign-cloud exists and belongs to ConfigMap holder" in message
    before = fake.operator.metric(PASSES)
    time.sleep(6)
    assert fake.operator.metric(PASSES) - before <= 6  # two topologies that are not ready: every five seconds each
    found = fake.server.request("GET", fake.path("services", "foreign-cloud"))
    assert (found["spec"], found["metadata"]["labels"]) == (made["spec"], labels)
    fake.delete("foreign")
    fake.until(lambda: list(fake.children("foreign")) == ["services/foreign-cloud"])
    fake.server.request("DELETE", fake.path("configmaps", "holder"))


def test_what_somebody_deletes_by_hand_comes_back_kind_by_kind(fake: World) -> None:
    found_out = {"configmaps/fake-facts", "configmaps/fake-accepted"}  # without both a Job would look into the model
    kept = {name for name in fake.children("fake") if not name.startswith("pods/")} - found_out
    for name in kept:
        plural, _, child = name.partition("/")
        fake.server.request("DELETE", fake.path(plural, child))
    fake.until(lambda: kept <= fake.children("fake").keys(), name="fake")
    fake.until_condition("fake", "CloudReady", "True")
    fake.until_condition("fake", "DevicesReady", "True")


def test_a_rollout_over_devices_that_stands_still_is_told_and_goes_on(fake: World) -> None:
    pool = {"name": "still", "nodeSelector": played_nodes.LABEL, "api": {"exposure": "None"}}
    pool |= {"rollout": {"progressDeadlineSeconds": 4}}
    spec = fake_nodes.FAKE | {"devicePools": [pool | {"pod": {"tolerations": played_nodes.TOLERATIONS}}]}
    played_nodes.make(fake.server, 1)
    try:
        fake.know("still", **spec)
        fake.apply("still", **spec)
        fake.until_condition("still", "CloudReady", "True")
        fake.until(lambda: bool(fake.uids("still", "device")), name="still")
        [pod] = [name.partition("/")[2] for name in fake.children("still") if "pods/still-device" in name]
        assert fake.condition("still", "Progressing")[0] == "True"
        played_nodes.set_ready(fake, pod, ready=False)
        fake.until_condition("still", "Progressing", "False", "ProgressDeadlineExceeded")
        assert fake.condition("still", "DevicesReady") == ("False", "ProgressDeadlineExceeded")
        assert fake.condition("still", "Degraded") == ("True", "ProgressDeadlineExceeded")
        assert "ProgressDeadlineExceeded" in [each["reason"] for each in fake.events("still")]
        played_nodes.set_ready(fake, pod)
        fake.until_condition("still", "Progressing", "False", "RolloutComplete")
        fake.until_condition("still", "DevicesReady", "True")
    finally:
        fake.delete("still")
        fake.until(lambda: not any("daemonsets/" in each for each in fake.children("still")))
        played_nodes.end_pods(fake, "still")
        played_nodes.delete(fake.server)


def test_an_offline_device_does_not_keep_the_others_from_a_new_revision(fake: World) -> None:
    """Of three devices a tenth is one, and the one that is offline was it."""
    pool = {"name": "few", "nodeSelector": played_nodes.LABEL, "api": {"exposure": "None"}}
    pool |= {"pod": {"tolerations": played_nodes.TOLERATIONS}}

    def devices() -> dict[str, dict[str, Any]]:
        found = {name: each for name, each in fake.children("few").items() if "pods/few-device" in name}
        return {each["spec"]["nodeName"]: each for each in found.values() if "nodeName" in each["spec"]}

    def revisions() -> dict[str, str]:
        return {node: each["metadata"]["labels"]["milliner.dev/revision"] for node, each in devices().items()}

    def went_on_without_the_first() -> bool:
        """Plays the kubelets of the two that are online: they end pods, and begin new ones."""
        for node, each in devices().items():
            name = each["metadata"]["name"]
            if node != "played-0" and "deletionTimestamp" in each["metadata"]:
                fake.server.request("DELETE", fake.path("pods", name), gracePeriodSeconds="0")
            elif node != "played-0" and "containerStatuses" not in each["status"]:
                played_nodes.set_ready(fake, name)
        now = revisions()
        return len(now) == 3 and sorted(node for node in now if now[node] != before[node]) == ["played-1", "played-2"]

    played_nodes.make(fake.server, 3)
    try:
        spec = fake_nodes.FAKE | {"devicePools": [pool]}
        fake.know("few", **spec)
        fake.apply("few", **spec)
        fake.until(lambda: len(devices()) == 3, name="few")
        played_nodes.play_pods(fake, "few")
        fake.until_condition("few", "DevicesReady", "True")
        before = revisions()
        played_nodes.go_offline(fake, devices()["played-0"]["metadata"]["name"])
        fake.until_condition("few", "DevicesReady", "False", "DeviceUnreachable")
        fake.apply("few", **spec | {"devicePools": [pool | {"drainSeconds": 1}]})
        fake.until(went_on_without_the_first, name="few")
        fake.until_condition("few", "DevicesReady", "False", "DeviceUnreachable")
    finally:
        fake.delete("few")
        fake.until(lambda: not any("daemonsets/" in each for each in fake.children("few")))
        played_nodes.end_pods(fake, "few")
        played_nodes.delete(fake.server)


def test_an_operator_that_is_killed_in_mid_rollout_goes_on_where_things_stand(fake: World) -> None:
    revision = fake.topology("fake")["status"]["cloud"]["revision"]
    devices = fake.uids("fake", "device")
    fake.apply("fake", **cloud(engine={"maxSessions": 7}))
    fake.until(lambda: configured(fake, "fake")["engine"]["maxSessions"] == 7)
    fake.operator.stop(signal.SIGKILL)
    fake.operator.start()
    fake.until_condition("fake", "CloudReady", "True")
    fake.until_condition("fake", "Progressing", "False", "RolloutComplete")
    assert fake.topology("fake")["status"]["cloud"]["revision"] != revision
    assert fake.uids("fake", "device") == devices


def test_a_rollout_that_hangs_keeps_what_old_pods_start_with_and_a_revert_finds_it(fake: World) -> None:
    """A pod of the old revision that restarted read the new configuration."""

    def configurations() -> dict[str, str]:
        found = fake.children("fake").items()
        return {name: each["metadata"]["uid"] for name, each in found if name.startswith("configmaps/fake-cloud-")}

    fake.apply("fake", **fake_nodes.FAKE)
    fake.until(lambda: len(configurations()) == 1 and fake.condition("fake", "CloudReady")[0] == "True", name="fake")
    before = configurations()
    nowhere = {"nodeSelector": {"type": "nowhere"}}
    fake.apply("fake", **cloud(engine={"maxSessions": 5}, pod=fake_nodes.OPTIONS | nowhere))
    fake.until_condition("fake", "CloudReady", "False", "Unschedulable")
    fake.passes("fake", 1)  # what the pass that told it writes after the status
    hanging, writes = configurations(), fake.operator.metric("milliner_operator_writes_total")
    assert before.items() < hanging.items()
    fake.passes("fake", 2)
    assert (configurations(), fake.operator.metric("milliner_operator_writes_total")) == (hanging, writes)
    fake.apply("fake", **fake_nodes.FAKE)
    fake.until(lambda: configurations() == before, name="fake")


def test_two_operators_at_once_do_not_fight(fake: World) -> None:
    """Its Deployment's strategy is Recreate; a node that is cut off may keep an old one alive all the same."""
    other = fake.operator.another()
    other.start()
    try:
        other.passes(1)
        fake.know("both", **fake_nodes.FAKE)
        fake.apply("both", **fake_nodes.FAKE)
        fake.apply("fake", **cloud(engine={"maxSessions": 9}))
        for name in ("both", "fake"):
            fake.until_condition(name, "CloudReady", "True")
            fake.until_condition(name, "DevicesReady", "True")
        both = (fake.operator, other)
        fake.passes("fake", 4)
        before, generations = written(*both), generation(fake)
        fake.passes("fake", 4)  # the other makes as many meanwhile
        other.passes(1)
        assert (written(*both), generation(fake)) == (before, generations)
        fake.delete("both")
    finally:
        other.stop(signal.SIGKILL)


def written(*operators: operator_process.OperatorProcess) -> list[float]:
    return [each.metric("milliner_operator_writes_total") for each in operators]


def generation(world: World) -> list[int]:
    """How often the specs of both tiers' workloads have changed."""
    names = ("fake-cloud", "fake-device-fake", "both-cloud", "both-device-fake")
    return [world.server.request("GET", world.path("deployments", each))["metadata"]["generation"] for each in names]


def test_a_namespace_that_is_deleted_under_the_operator_is_left_in_peace(
    fake: World, server: api_server.ApiServer
) -> None:
    doomed = fake.elsewhere(server.create_namespace("milliner-doomed-"))
    doomed.operator.start()
    try:
        doomed.know("gone", **fake_nodes.FAKE)
        doomed.apply("gone", **fake_nodes.FAKE)
        doomed.until_condition("gone", "CloudReady", "True")
        before, started = doomed.operator.metric(PASSES), time.monotonic()
        server.delete_namespace(doomed.namespace)
        doomed.until(lambda: not exists(server, doomed.namespace))
        assert doomed.operator.metric(PASSES) - before <= time.monotonic() - started + 2
        doomed.until(lambda: doomed.operator.metric("milliner_operator_queue_length") == 0)
        before = doomed.operator.metric(PASSES)
        time.sleep(3)
        assert doomed.operator.metric(PASSES) <= before + 1  # one may have been waiting for its second
        assert "Traceback" not in doomed.operator.log
    finally:
        doomed.operator.stop(signal.SIGKILL)


def exists(server: api_server.ApiServer, namespace: str) -> bool:
    try:
        server.request("GET", f"/api/v1/namespaces/{namespace}")
    except api_server.Refused:
        return False
    return True
