"""Why pods are not ready: documents of failing pods, as kubelets and schedulers write them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from tests.unit.milliner_operator import worlds

from milliner_operator import pods, probes, workloads
from milliner_operator.conditions import Reason


def pod(*, statuses: list[dict[str, Any]] | None = None, **conditions: Any) -> dict[str, Any]:
    found = [
        {
            "type": kind,
            "status": "True" if value is True else "False",
            **({"message": value} if value is not True else {}),
        }
        for kind, value in conditions.items()
    ]
    return {
        "metadata": {"name": "p"},
        "spec": {"nodeName": "node-1"},
        "status": {"conditions": found, "containerStatuses": statuses or []},
    }


def waiting(reason: str, message: str = "", **more: Any) -> list[dict[str, Any]]:
    return [{"image": "i:1", "ready": False, "state": {"waiting": {"reason": reason, "message": message}}, **more}]


CASES = [
    (pod(PodScheduled="0/3 nodes: 3 Insufficient nvidia.com/gpu"), Reason.INSUFFICIENT_CAPACITY, "nvidia.com/gpu"),
    (pod(PodScheduled="0/3 nodes: didn't match node selector"), Reason.UNSCHEDULABLE, "didn't match"),
    (pod(statuses=waiting("ImagePullBackOff", "not found")), Reason.IMAGE_PULL_FAILED, "i:1: not found"),
    (pod(statuses=waiting("ErrImagePull")), Reason.IMAGE_PULL_FAILED, "ErrImagePull"),
    (pod(statuses=waiting("CreateContainerConfigError", "secret missing")), Reason.CRASH_LOOP, "secret missing"),
    (
        pod(
            statuses=waiting(
                "CrashLoopBackOff",
                restartCount=4,
                lastState={"terminated": {"exitCode": 2, "message": "Traceback\nnoise\nbad config\n"}},
            )
        ),
        Reason.CRASH_LOOP,
        "exit code 2, restarted 4 times: bad config",
    ),
    (
        pod(
            statuses=[
                {
                    "ready": False,
                    "restartCount": 1,
                    "state": {"running": {}},
                    "lastState": {"terminated": {"exitCode": 1}},
                }
            ]
        ),
        Reason.CRASH_LOOP,
        "exit code 1",
    ),
    (pod(statuses=[{"ready": True, "state": {"running": {}}}], Ready=""), Reason.DEVICE_UNREACHABLE, "node-1"),
    (pod(statuses=[{"ready": False, "state": {"running": {}}}], Ready="not yet"), Reason.PODS_NOT_READY, "not yet"),
]


@pytest.mark.parametrize(("document", "reason", "message"), CASES)
def test_reasons(document: dict[str, Any], reason: Reason, message: str) -> None:
    found = pods.trouble([pod(Ready=True), document])
    assert found is not None
    assert found.reason is reason
    assert message in found.message


def test_the_most_telling_trouble_is_told() -> None:
    documents = [each for each, *_ in reversed(CASES)]
    found = pods.trouble(documents)
    assert found is not None and found.reason is Reason.IMAGE_PULL_FAILED


UNREADY = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-11-21T11:29:00Z"}
RUNNING = {"ready": False, "state": {"running": {}}}


@pytest.mark.parametrize(
    ("changes", "stuck"),
    [
        ({"conditions": [UNREADY], "containerStatuses": [RUNNING]}, True),
        (
            {"conditions": [UNREADY | {"lastTransitionTime": "2026-11-21T11:31:00Z"}], "containerStatuses": [RUNNING]},
            False,
        ),
        ({"conditions": [UNREADY], "containerStatuses": [RUNNING | {"ready": True}]}, False),  # its node is offline
        ({"conditions": [UNREADY | {"status": "True"}], "containerStatuses": [RUNNING | {"ready": True}]}, False),
        ({"conditions": []}, True),  # not even scheduled: since it was made
    ],
)
def test_who_has_not_been_ready_for_half_an_hour_is_stuck_unless_offline(changes: dict[str, Any], stuck: bool) -> None:
    metadata = {"name": "p", "creationTimestamp": "2026-11-21T11:00:00Z"}
    found = {"metadata": metadata, "spec": {"nodeName": "node-1"}, "status": changes}
    assert pods.is_stuck(found, now=worlds.NOW, within_s=1800) is stuck
    leaving = found | {"metadata": metadata | {"deletionTimestamp": "2026-11-21T11:59:00Z"}}
    assert not pods.is_stuck(leaving, now=worlds.NOW, within_s=1800)


def test_a_board_that_comes_up_in_1970_is_not_stuck_from_its_first_second() -> None:
    unready = UNREADY | {"lastTransitionTime": "1970-01-01T00:00:09Z"}
    metadata = {"name": "p", "creationTimestamp": "2026-11-21T11:59:00Z"}
    found = {"metadata": metadata, "spec": {}, "status": {"conditions": [unready], "containerStatuses": [RUNNING]}}
    assert not pods.is_stuck(found, now=worlds.NOW, within_s=1800)
    assert pods.is_stuck(found, now=worlds.NOW + datetime.timedelta(hours=1), within_s=1800)


@pytest.mark.parametrize(
    ("status", "ready", "since"),
    [("True", 1, "2026-11-21T11:00:00+00:00"), ("True", 0, None), ("False", 1, None)],
)
def test_a_cloud_serves_since_it_has_pods_and_enough_of_them(status: str, ready: int, since: str | None) -> None:
    available = {"type": "Available", "status": status, "lastTransitionTime": "2026-11-21T11:00:00Z"}
    deployment = {
        "kind": "Deployment",
        "metadata": {},
        "spec": {"template": {"metadata": {}}},
        "status": {"readyReplicas": ready, "conditions": [available]},
    }
    found = workloads.serves_since(deployment)
    assert (found and found.isoformat()) == since
    assert workloads.serves_since(None) is None


def test_a_container_that_ends_for_the_first_time_says_why() -> None:
    ended = {"exitCode": 2, "message": "slice.start: found -1, use 0 or more"}
    found = pods.trouble([pod(statuses=[{"ready": False, "restartCount": 0, "state": {"terminated": ended}}])])
    assert found is not None and found.message == "pod p: exit code 2: slice.start: found -1, use 0 or more"


@pytest.mark.parametrize(("seconds", "told"), [(-60, False), (10, False), (31, True)])
def test_the_device_that_keeps_a_rollout_waiting_is_named(seconds: int, told: bool) -> None:
    """An offline device's old pod, told to end, stays: the rollout was `Updating` for ever, without a name."""
    ends = (worlds.NOW - datetime.timedelta(seconds=seconds)).isoformat()
    old = pod(Ready=True) | {"metadata": {"name": "p", "deletionTimestamp": ends}}
    found = pods.unreachable([old], now=worlds.NOW)
    assert (found is not None) == told
    if found is not None:
        assert found.reason is Reason.DEVICE_UNREACHABLE and "node-1 does not answer" in found.message


def test_a_device_whose_old_pod_is_not_told_to_end_yet_is_named_too() -> None:
    away = pod(statuses=[{"ready": True, "state": {"running": {}}}], Ready="node away")
    serving = pod(statuses=[{"ready": True, "state": {"running": {}}}], Ready=True)
    found = pods.unreachable([serving, away], now=worlds.NOW)
    assert found is not None and found.reason is Reason.DEVICE_UNREACHABLE
    assert pods.unreachable([serving], now=worlds.NOW) is None


def test_a_restart_of_long_ago_is_not_why_a_pod_on_a_silent_node_is_not_ready() -> None:
    """A node that had been without power once, and was cut off later, was told as CrashLoop."""
    running = {
        "ready": True,
        "restartCount": 1,
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 255}},
    }
    found = pods.trouble([pod(statuses=[running], PodScheduled=True, Ready="")])
    assert found is not None and found.reason is Reason.DEVICE_UNREACHABLE


def test_pods_that_end_are_no_trouble() -> None:
    leaving = CASES[0][0] | {"metadata": {"name": "p", "deletionTimestamp": "2026-11-21T12:00:00Z"}}
    assert pods.trouble([leaving]) is None
    assert not pods.is_ready(pod(Ready=True) | {"metadata": {"name": "p", "deletionTimestamp": "x"}})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"ok": "maybe"}',
        "<html>",
        # figures that no status can hold ended the whole pass
        '{"ok": true, "ageSeconds": 3, "tokensPerSecond": -1}',
        '{"ok": true, "ageSeconds": 3, "tokensPerSecond": 1e300}',
        '{"ok": true, "ageSeconds": 3, "roundTripMicroseconds": NaN}',
        '{"ok": true, "ageSeconds": 3, "timeToFirstTokenMilliseconds": Infinity}',
    ],
)
def test_answers_that_are_none_are_failed_probes(text: str) -> None:
    found = probes.parse(text, pod="p")
    assert not found.ok and "p" in found.reason


def test_a_probe_without_an_age_is_stale() -> None:
    assert not probes.parse('{"ok": true}', pod="p").ok
    assert probes.parse('{"ok": true, "ageSeconds": 3, "added": "later"}', pod="p").ok
