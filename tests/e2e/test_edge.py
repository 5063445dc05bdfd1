"""A device pool in a second cluster: ready, served, its API server away for a while, cleaned up with the topology."""

from __future__ import annotations

import os
import time

import pytest
from tests.chart import kubectl
from tests.e2e import edge, topologies, unsplit

PROMPT = "import asyncio\n\n\nclass "
MAX_TOKENS = 24
AWAY_S = 30.0  # long enough for every wait of the operator to end
CLEANED_S = 60.0


@pytest.fixture
def remote(namespace: str) -> None:
    """A topology whose one pool is at the edge, and ready."""
    if missing := [each for each in edge.VARIABLES if not os.environ.get(each)]:
        pytest.skip(f"needs a second cluster: set {', '.join(missing)} as tests/e2e/edge.py says")
    topology = topologies.small(namespace=namespace)
    topology["spec"]["cloud"]["service"] = {"type": "LoadBalancer"}
    topology["spec"]["devicePools"][0]["clusterSecretRef"] = {"name": "edge"}
    kubectl.apply([edge.prepare(namespace), topology])
    topologies.wait_ready("chat", namespace=namespace)


def answer(namespace: str) -> list[int]:
    """What the device at the edge answers."""
    with topologies.device("chat", namespace=namespace, kubeconfig=os.environ[edge.VARIABLES[0]]) as client:
        return topologies.completion(client, PROMPT, max_tokens=MAX_TOKENS)


def test_a_pool_elsewhere_serves_survives_its_api_server_and_is_cleaned_up(remote: None, namespace: str) -> None:
    (expected,) = unsplit.answers([PROMPT], max_tokens=MAX_TOKENS)
    assert answer(namespace)[: len(expected)] == expected
    status = kubectl.get("itopo", "chat", namespace=namespace)["status"]
    assert [each["cluster"] for each in status["devicePools"]] == ["edge"]
    clouds = topologies.names("chat", "cloud", namespace=namespace)
    with edge.api_server_stopped():
        until = time.monotonic() + AWAY_S
        topologies.wait_condition("chat", "DevicesReady", "False", "DeviceUnreachable", namespace=namespace)
        conditions = topologies.conditions("chat", namespace=namespace)
        assert (conditions["CloudReady"][0], conditions["Ready"][0]) == ("True", "False")
        time.sleep(max(0.0, until - time.monotonic()))
    topologies.wait_ready("chat", namespace=namespace)
    assert answer(namespace)[: len(expected)] == expected
    assert topologies.names("chat", "cloud", namespace=namespace) == clouds
    assert edge.children(namespace)
    kubectl.run("delete", "itopo", "chat", "--namespace", namespace, f"--timeout={CLEANED_S:.0f}s")
    deadline = time.monotonic() + CLEANED_S
    while left := edge.children(namespace):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    edge.run("delete", "namespace", namespace, "--wait=false")
