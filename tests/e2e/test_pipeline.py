"""The cloud's layers on two stages: each is a workload of its own that holds its layers and no more, answers are the
unsplit model's, and a stage that is lost in the middle of one costs time and no token."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import httpx
import pytest
from tests.chart import kubectl
from tests.e2e import file_pod, streams, topologies, unsplit

from milliner.demo import assets

PROMPT = "def main(argv):\n"
FEW_TOKENS, MAX_TOKENS = 48, 150
LINK = {"roundTripMilliseconds": 100, "jitterMilliseconds": 0}  # answers take seconds: a stage is lost meanwhile
CLOUD_NODES = {"nvidia.com/gpu.present": "true"}  # the label by which a cluster of this kind knows its servers
STAGES = {"cloud": "chat-cloud", "cloud-stage1": "chat-cloud-stage1"}
SURPLUS = 1.05  # a role fetches its slice and at most this much
SIZES = (
    "import pathlib; print(sum(f.stat().st_size for f in pathlib.Path('/var/cache/milliner').rglob('*.safetensors')))"
)
NOTICED_S = 30.0


@pytest.fixture(scope="module")
def staged(namespace: str) -> str:
    """A topology with two stages whose model comes over HTTP; ready."""
    kubectl.apply(file_pod.manifests(namespace))
    serving = ("wait", "--for=condition=Ready", f"pod/{file_pod.NAME}", "--namespace", namespace, "--timeout=50s")
    kubectl.run(*serving)
    topology = topologies.small(namespace=namespace)
    topology["spec"]["model"]["source"] = file_pod.model_url(namespace)
    topology["spec"]["strategy"] = {"type": "Hat", "hat": {"adapter": {"source": "builtin://demo"}}}
    topology["spec"]["devicePools"][0]["emulation"]["link"] = LINK
    topology["spec"]["cloud"] |= {"pipelineStages": 2}
    topology["spec"]["cloud"]["pod"]["nodeSelector"] = CLOUD_NODES
    kubectl.apply([topology])
    topologies.wait_ready("chat", namespace=namespace)
    return namespace


@pytest.fixture(scope="module")
def expected() -> list[int]:
    [answer] = unsplit.answers([PROMPT], max_tokens=MAX_TOKENS)
    return answer


def layer_bytes(start: int, end: int) -> int:
    """Bytes of the demo model's layers [start, end), by its file's header."""
    with (assets.model_dir() / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(size))
    prefixes = tuple(f"model.layers.{layer}." for layer in range(start, end))
    offsets = [tensor["data_offsets"] for name, tensor in header.items() if name.startswith(prefixes)]
    return sum(last - first for first, last in offsets)


def test_each_stage_holds_its_layers_only(staged: str) -> None:
    slices = []
    for role, workload in STAGES.items():
        deployment = kubectl.get("deployment", workload, namespace=staged)
        assert deployment["status"]["readyReplicas"] == 1
        (pod,) = topologies.names("chat", role, namespace=staged)
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        config_map = next(each["configMap"]["name"] for each in volumes if each["name"] == "config")
        config = json.loads(kubectl.get("configmap", config_map, namespace=staged)["data"]["config.json"])
        bounds = config["slice"]["start"], config["slice"]["end"]
        fetched = int(kubectl.run("exec", pod, "--namespace", staged, "--", "python", "-c", SIZES))
        assert layer_bytes(*bounds) <= fetched <= SURPLUS * layer_bytes(*bounds)
        slices.append(bounds)
    (first, second), (third, last) = slices
    assert first < second == third < last == 8


def test_an_answer_is_the_unsplit_models(staged: str, expected: list[int]) -> None:
    with topologies.device("chat", namespace=staged) as client:
        answer = topologies.completion(client, PROMPT, max_tokens=FEW_TOKENS)
    assert answer[: len(expected)] == expected[:FEW_TOKENS]


def test_a_stage_that_is_lost_in_the_middle_of_an_answer_costs_no_token(staged: str, expected: list[int]) -> None:
    (lost,) = topologies.names("chat", "cloud-stage1", namespace=staged)
    (first,) = topologies.names("chat", "cloud", namespace=staged)
    with topologies.device("chat", namespace=staged) as client:
        with streams.streaming(client, PROMPT, max_tokens=MAX_TOKENS) as stream:
            kubectl.run("delete", "pod", lost, "--namespace", staged, "--grace-period=0", "--force")
            ready = not_ready(staged)
            assert ready["message"].startswith("chat-cloud-stage1: "), ready
            answer = stream.tokens()
        assert recoveries(client) >= 1, "the answer was over before the stage was lost"
    assert answer[: len(expected)] == expected
    topologies.wait_ready("chat", namespace=staged)
    assert lost not in topologies.names("chat", "cloud-stage1", namespace=staged)
    assert topologies.names("chat", "cloud", namespace=staged) == [first]
    kubectl.run("delete", "itopo", "chat", "--namespace", staged)


def recoveries(client: httpx.Client) -> float:
    """Sessions that the device has moved to another replica, by its metrics."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("milliner_recoveries_total"))


def not_ready(namespace: str) -> dict[str, Any]:
    """Ready once it is False."""
    deadline = time.monotonic() + NOTICED_S
    while (found := topologies.condition("chat", "Ready", namespace=namespace))["status"] != "False":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
    return found
