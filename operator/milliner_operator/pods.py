"""Why pods are not ready, in the words of the status: reads a few pods' documents. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from milliner_operator import observed
from milliner_operator.conditions import Reason
from milliner_operator.observed import Manifest, Trouble, condition

_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CREATE_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_MESSAGE_CHARACTERS = 400
_SILENT = datetime.timedelta(seconds=30)  # arbitrary: a kubelet that answers removes a pod within seconds of its end
# The cause that helps most first: a pod that cannot be pulled matters more than one that still starts.
_ORDER = (
    Reason.IMAGE_PULL_FAILED,
    Reason.CRASH_LOOP,
    Reason.INSUFFICIENT_CAPACITY,
    Reason.UNSCHEDULABLE,
    Reason.DEVICE_UNREACHABLE,
    Reason.PODS_NOT_READY,
)


def trouble(pods: Iterable[Manifest]) -> Trouble | None:
    """The most telling trouble among pods that are not ready; None if all are."""
    found = [each for each in map(_of_pod, pods) if each is not None]
    return min(found, key=lambda each: _ORDER.index(each.reason), default=None)


def is_stuck(pod: Manifest, *, now: datetime.datetime, within_s: float) -> bool:
    """Whether a pod has not been ready for `within_s` although its node answers: what rolls out behind it waits."""
    found = _of_pod(pod)
    if found is None or found.reason is Reason.DEVICE_UNREACHABLE:
        return False
    since = observed.not_before_creation(pod, condition(pod, "Ready").get("lastTransitionTime"))
    return bool(since) and now - datetime.datetime.fromisoformat(since) >= datetime.timedelta(seconds=within_s)


def unreachable(pods: Sequence[Manifest], *, now: datetime.datetime) -> Trouble | None:
    """The device that a rollout goes on without: its pod of a former revision can be neither asked nor ended."""
    pod = next((each for each in pods if is_away(each, now=now)), None)
    if pod is None:
        return None
    node = pod["spec"].get("nodeName", "its node")
    message = f"{node} does not answer: it gets the new revision when it is back"
    return _trouble(Reason.DEVICE_UNREACHABLE, pod["metadata"]["name"], message)


def is_away(pod: Manifest, *, now: datetime.datetime) -> bool:
    """Whether the node of a pod does not answer: its containers were well when it was last heard of, but the pod is
    not, or nobody has ended it in time, or begun with it."""
    status, metadata = pod.get("status") or {}, pod["metadata"]
    containers: Sequence[Mapping[str, Any]] = status.get("containerStatuses") or ()
    if (
        containers
        and all(each.get("ready") for each in containers)
        and condition(pod, "Ready").get("status") == "False"
    ):
        return True
    if _has_no_kubelet(pod):
        return _is_past(condition(pod, "PodScheduled").get("lastTransitionTime"), now=now)
    return _is_past(metadata.get("deletionTimestamp"), now=now)  # which is with its grace period


def untaken(pods: Iterable[Manifest], *, now: datetime.datetime) -> Trouble | None:
    """A pod that was placed on a node that does not begin with it, as one is that went away unnoticed."""
    for each in pods:
        if "deletionTimestamp" not in each["metadata"] and _has_no_kubelet(each) and is_away(each, now=now):
            node = each["spec"].get("nodeName", "its node")
            message = f"{node} does not answer: it has not begun with this pod"
            return _trouble(Reason.DEVICE_UNREACHABLE, each["metadata"]["name"], message)
    return None


def _has_no_kubelet(pod: Manifest) -> bool:
    """Whether a pod has a node whose kubelet has not seen it."""
    status = pod.get("status") or {}
    placed = condition(pod, "PodScheduled").get("status") == "True"
    return placed and not status.get("containerStatuses") and not status.get("startTime")


def _is_past(time: str | None, *, now: datetime.datetime) -> bool:
    return bool(time) and now - datetime.datetime.fromisoformat(str(time)) >= _SILENT


def is_ready(pod: Manifest) -> bool:
    return condition(pod, "Ready").get("status") == "True" and "deletionTimestamp" not in pod["metadata"]


def _of_pod(pod: Manifest) -> Trouble | None:
    if is_ready(pod) or "deletionTimestamp" in pod["metadata"]:
        return None
    name = pod["metadata"]["name"]
    scheduled = condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        message = str(scheduled.get("message") or "cannot be scheduled")
        short = Reason.INSUFFICIENT_CAPACITY if "Insufficient" in message else Reason.UNSCHEDULABLE
        return _trouble(short, name, message)
    statuses: Sequence[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or ()
    if statuses and all(each.get("ready") for each in statuses):  # which may have restarted before
        node = pod["spec"].get("nodeName", "its node")
        return _trouble(Reason.DEVICE_UNREACHABLE, name, f"{node} does not answer")
    for status in statuses:
        if (found := _of_container(name, status)) is not None:
            return found
    return _trouble(Reason.PODS_NOT_READY, name, _not_ready_message(pod))


def _of_container(pod_name: str, status: Mapping[str, Any]) -> Trouble | None:
    waiting = (status.get("state") or {}).get("waiting") or {}
    terminated = (status.get("state") or {}).get("terminated") or {}
    last = (status.get("lastState") or {}).get("terminated") or terminated
    reason, message = waiting.get("reason", ""), waiting.get("message") or ""
    if reason in _PULL_REASONS:
        return _trouble(Reason.IMAGE_PULL_FAILED, pod_name, f"{status.get('image', '')}: {message or reason}")
    if reason in _CREATE_REASONS:
        return _trouble(Reason.CRASH_LOOP, pod_name, message or reason)
    if reason == "CrashLoopBackOff" or (last and int(status.get("restartCount") or 0) > 0):
        ended = f"exit code {last.get('exitCode')}" if last else reason
        times = status.get("restartCount", 0)
        return _trouble(Reason.CRASH_LOOP, pod_name, _with_cause(f"{ended}, restarted {times} times", last))
    if terminated:
        return _trouble(Reason.CRASH_LOOP, pod_name, _with_cause(f"exit code {terminated.get('exitCode')}", terminated))
    return None


def _with_cause(what: str, ended: Mapping[str, Any]) -> str:
    """With the role's own last words; of a log's end, which stands there where it left none, the last line."""
    lines = str(ended.get("message") or "").strip().splitlines()
    return f"{what}: {lines[-1].strip()}" if lines else what


def _not_ready_message(pod: Manifest) -> str:
    ready = condition(pod, "Ready")
    return str(ready.get("message") or ready.get("reason") or "starting")


def _trouble(reason: Reason, pod: str, message: str) -> Trouble:
    return Trouble(reason, f"pod {pod}: {message.strip()}"[:_MESSAGE_CHARACTERS])
