"""Whole models on real nodes: devices of two classes take over from a cloud whose pod dies in the middle of an answer,
a cloud answers alone, devices do, and an engine that users already run takes the cloud's place."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from tests.chart import kubectl
from tests.e2e import streams, topologies, unsplit

PROMPT = "def main(argv):\n    parser = argparse.ArgumentParser()\n    parser.add_argument('path')\n"
MAX_TOKENS = 70
CLOUD_NODES = {"nvidia.com/gpu.present": "true"}  # labels of servers and devices in a cluster of this kind
DEVICE_NODES = {"nvidia.com/device": "jetson-agx-orin"}
# The cloud gives its tokens in seconds, and the slower devices see the prompt in as many: time to kill its pod.
CLOUD_STEP = {"fixedMicroseconds": 100_000}
SLOW_PROMPT = {"promptTokenMicroseconds": 200_000, "stepMicroseconds": 30_000}
DEVICES = [
    ("handover", "orin"),
    ("handover", "nano"),
    ("cloud-only", "gateway"),
    ("device-only", "emulated"),
    ("external", "gateway"),
]
KEY = "of the devices that answer alone"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ALL_READY_S = 240  # four topologies come up at once
NOTICED_S = 30.0


@pytest.fixture(scope="module")
def serving(namespace: str) -> Iterator[str]:
    """The samples of the three strategies, ready; and an external engine, which the devices alone play, asked with a
    key from a Secret and by way of the network policy."""
    handover = topologies.sample("pd-device-emulated.yaml", namespace=namespace, topology="handover")
    spec = handover["spec"]
    spec["strategy"]["pdDevice"]["cloudTokens"] = {"mode": "Fixed", "max": MAX_TOKENS}
    spec["cloud"]["pod"]["nodeSelector"] = CLOUD_NODES
    spec["cloud"]["emulation"]["compute"]["layers"] = CLOUD_STEP
    for pool in spec["devicePools"]:
        pool["nodeSelector"] = DEVICE_NODES
    spec["devicePools"][1]["emulation"]["compute"]["wholeModel"] = SLOW_PROMPT
    cloud = topologies.sample("cloud-only.yaml", namespace=namespace, topology="cloud-only")
    alone = topologies.sample("device-only.yaml", namespace=namespace, topology="device-only")
    alone["spec"]["devicePools"][0]["api"] = {"keysSecretRef": {"name": "keys"}}
    external = topologies.sample("cloud-only.yaml", namespace=namespace, topology="external")
    url = f"http://device-only-device-emulated.{namespace}.svc:8080/v1"
    server = {"url": url, "apiKeySecretRef": {"name": "keys", "key": "one"}}
    external["spec"]["cloud"] = {"engine": {"type": "External", "external": server}}
    metadata = {"name": "keys", "namespace": namespace}
    keys = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"one": KEY}}
    kubectl.apply([keys, handover, cloud, alone, external])
    for name in dict(DEVICES):
        topologies.wait_ready(name, namespace=namespace, deadline_s=ALL_READY_S)
    yield namespace
    kubectl.run("delete", "itopo", "--all", "--namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def expected() -> list[int]:
    [answer] = unsplit.answers([PROMPT], max_tokens=MAX_TOKENS)
    return answer


@pytest.mark.parametrize(("name", "pool"), DEVICES, ids=["-".join(each) for each in DEVICES])
def test_an_answer_is_the_whole_models(serving: str, expected: list[int], name: str, pool: str) -> None:
    with topologies.device(name, namespace=serving, pool=pool) as client:
        if name == "device-only":
            client.headers.update(HEADERS)
        answer = topologies.completion(client, PROMPT, max_tokens=16)
    assert answer[: len(expected)] == expected[:16]


def test_cloud_pods_are_there_only_where_the_cloud_is_ours(serving: str) -> None:
    assert topologies.conditions("device-only", namespace=serving)["CloudReady"] == ("True", "NoCloudNeeded")
    assert topologies.conditions("external", namespace=serving)["CloudReady"] == ("True", "ExternalEngineAnswers")
    assert topologies.names("device-only", "cloud", namespace=serving) == []
    assert topologies.names("external", "cloud", namespace=serving) == []


def test_a_cloud_pod_that_dies_in_the_middle_of_an_answer_costs_no_token(serving: str, expected: list[int]) -> None:
    (lost,) = topologies.pods("handover", "cloud", namespace=serving)
    with topologies.device("handover", namespace=serving, pool="nano") as client:
        before = fallbacks(client)
        with streams.streaming(client, PROMPT, max_tokens=MAX_TOKENS) as stream:
            kill = ("delete", "pod", lost["metadata"]["name"], "--grace-period=0", "--force")
            kubectl.run(*kill, "--namespace", serving)
            conditions = not_ready(serving)
            answer = stream.tokens()
        assert fallbacks(client) > before, "the cloud had given all of its tokens"
    assert answer[: len(expected)] == expected
    assert conditions["CloudReady"][0] == "False"
    assert conditions["Degraded"][0] == "True"
    assert conditions["DevicesReady"][0] == "True", "they answer alone"


def test_an_engine_that_is_gone_is_named(serving: str) -> None:
    kubectl.run("delete", "itopo", "device-only", "--namespace", serving)
    topologies.wait_condition("external", "CloudReady", "False", "ExternalEngineUnreachable", namespace=serving)
    assert topologies.conditions("external", namespace=serving)["Ready"][0] == "False"


def fallbacks(client: httpx.Client) -> float:
    """Answers that went on without the cloud, by the device's metrics."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("milliner_fallbacks_total"))


def not_ready(namespace: str) -> dict[str, tuple[str, str]]:
    """The conditions once Ready is False."""
    deadline = time.monotonic() + NOTICED_S
    while (found := topologies.conditions("handover", namespace=namespace))["Ready"][0] != "False":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found
