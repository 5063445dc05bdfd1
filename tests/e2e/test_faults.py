"""Faults on real nodes: Ready is never True while requests fail and names the cause; repaired, requests are served."""

from __future__ import annotations

from typing import Any

import pytest
from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

PROMPT = "def main(argv):\n"
TOO_SMALL = {"requests": {"memory": "64Mi"}, "limits": {"memory": "64Mi"}}  # Python with torch needs four times that
NO_REGISTRY = "127.0.0.1:9"  # of the node itself: pulling fails at once
OTHER_DIGEST = "sha256:" + "0" * 64


def fails(namespace: str, condition: str, reason: str) -> None:
    """Waits until a condition says why it is False; Ready is not True then."""
    topologies.wait_condition("chat", condition, "False", reason, namespace=namespace)
    assert topologies.conditions("chat", namespace=namespace)["Ready"][0] == "False"


def serves(namespace: str) -> None:
    """Waits until Ready is True; a request is answered then."""
    topologies.wait_ready("chat", namespace=namespace)
    with topologies.device("chat", namespace=namespace) as client:
        assert len(topologies.completion(client, PROMPT, max_tokens=4)) == 4


FAULTS = [
    (("cloud", "pod", "resources"), TOO_SMALL, "CloudReady", "CrashLoop"),
    (("devicePools", 0, "nodeSelector"), {"no": "such"}, "DevicesReady", "Unschedulable"),
    (("model", "digest"), OTHER_DIGEST, "ModelReady", "ModelDigestMismatch"),
]
pytestmark = pytest.mark.usefixtures("watched")


@pytest.mark.parametrize(("path", "value", "condition", "reason"), FAULTS, ids=[each[3] for each in FAULTS])
def test_a_spec_that_cannot_serve_is_not_ready(
    shared: charts.Document, chat: charts.Document, path: tuple[str | int, ...], value: Any, condition: str, reason: str
) -> None:
    namespace = shared["metadata"]["namespace"]
    part: Any = chat["spec"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    kubectl.apply([chat])
    fails(namespace, condition, reason)
    kubectl.apply([shared])
    serves(namespace)


def test_an_upgrade_to_an_image_that_is_not_there_is_rolled_back(chat: charts.Document) -> None:
    """The demo model comes with the image, so that another image is inspected first; the old pods go on serving."""
    namespace = chat["metadata"]["namespace"]
    installation.install("--set", f"runtimeImage.repository={NO_REGISTRY}/milliner/runtime")
    try:
        fails(namespace, "ModelReady", "ImagePullFailed")
        with topologies.device("chat", namespace=namespace) as client:
            assert len(topologies.completion(client, PROMPT, max_tokens=4)) == 4
    finally:
        installation.roll_back()
    serves(namespace)


def test_a_killed_cloud_is_told(chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    (cloud,) = topologies.names("chat", "cloud", namespace=namespace)
    kubectl.run("delete", "pod", cloud, "--namespace", namespace, "--grace-period=0", "--force")
    topologies.wait_condition("chat", "CloudReady", "False", namespace=namespace)
    assert topologies.conditions("chat", namespace=namespace)["Ready"][0] == "False"
    serves(namespace)


def test_a_deleted_service_comes_back(chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    before = kubectl.get("service", "chat-cloud", namespace=namespace)["metadata"]["uid"]
    kubectl.run("delete", "service", "chat-cloud", "--namespace", namespace)
    created = ("wait", "--for=create", "service/chat-cloud", "--namespace", namespace, "--timeout=30s")
    kubectl.run(*created)
    assert kubectl.get("service", "chat-cloud", namespace=namespace)["metadata"]["uid"] != before
    serves(namespace)
