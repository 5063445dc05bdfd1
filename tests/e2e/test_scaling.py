"""The cloud tier grows and shrinks on a real cluster: through the scale subresource, by CPU, by queue time; what runs
on a replica that goes is answered to its end."""

from __future__ import annotations

import contextlib
import json
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import httpx
import pytest
import yaml
from tests.chart import charts, kubectl
from tests.e2e import custom_metrics, installation, prometheus_server, streams, topologies, unsplit

from milliner.contract import names

PROMPT = "def main(argv):\n"
# A round over this link takes half a second: a long answer hardly computes in the cloud, and takes longer than it takes
# an autoscaler to let a replica go.
LINK = {"roundTripMilliseconds": 500, "jitterMilliseconds": 0}
LONG_TOKENS = 360
LOAD = "import os\n" * 300  # a prompt whose prefill is all work for the cloud
ASKING = 6
CPU = {"minReplicas": 1, "maxReplicas": 2, "scaleDownStabilizationSeconds": 5}
SCALED_S = 150  # metrics are 15 s old at most, the autoscaler looks every 15 s, a pod starts in 15 s; in doubt twice
pytestmark = pytest.mark.timeout(480)  # waits have deadlines of their own
QUEUE_METRIC = "milliner_queue_milliseconds"
KEDA = charts.ROOT / "manifests" / "autoscaling" / "keda-scaledobject.yaml"


@pytest.fixture(scope="module")
def elastic(namespace: str) -> Iterator[str]:
    """A topology that is ready, without an autoscaler; its namespace."""
    topology = topologies.small(namespace=namespace)
    topology["spec"]["devicePools"][0]["emulation"]["link"] = LINK
    topology["spec"]["cloud"]["pod"]["resources"]["requests"]["cpu"] = "200m"
    kubectl.apply([topology])
    topologies.wait_ready("chat", namespace=namespace)
    yield namespace
    kubectl.run("delete", "itopo", "chat", "--namespace", namespace)


def until(holds: Callable[[], bool], what: str, *, namespace: str, deadline_s: float = SCALED_S) -> None:
    """Waits until something holds; AssertionError with the autoscalers and the topology otherwise."""
    deadline = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > deadline:
            scalers = kubectl.run("describe", "hpa", "--namespace", namespace)
            raise AssertionError(f"{what}: not so\n{scalers}\n{topologies.diagnosis('chat', namespace=namespace)}")
        time.sleep(0.5)


def scale(namespace: str, replicas: int) -> None:
    kubectl.run("scale", "itopo/chat", f"--replicas={replicas}", "--namespace", namespace)


def set_scaling(namespace: str, scaling: dict[str, Any]) -> None:
    """The cloud has an autoscaler from now on, instead of `replicas`."""
    patch = json.dumps({"spec": {"cloud": {"replicas": None, "scaling": scaling}}})
    kubectl.run("patch", "itopo", "chat", "--namespace", namespace, "--type=merge", "--patch", patch)


def replicas(namespace: str) -> list[str]:
    return topologies.names("chat", "cloud", namespace=namespace)


def grown(namespace: str) -> bool:
    return bool(kubectl.get("itopo", "chat", namespace=namespace)["status"]["cloud"]["ready"] == 2)


def sessions(namespace: str, pod: str) -> float:
    """Open sessions of a cloud pod, by its own metrics."""
    text = kubectl.run("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:9090/proxy/metrics")
    [line] = [line for line in text.splitlines() if line.startswith("milliner_cloud_sessions ")]
    return float(line.split()[1])


def busy_replica(namespace: str) -> str:
    """The one replica with a session, once a device's probe is not on the other."""
    found: list[str] = []

    def one() -> bool:
        found[:] = [pod for pod in replicas(namespace) if sessions(namespace, pod)]
        return len(found) == 1

    until(one, "one replica has a session", namespace=namespace, deadline_s=20)
    return found[0]


@contextlib.contextmanager
def load(client: httpx.Client) -> Iterator[None]:
    """Requests that keep a cloud replica busy; AssertionError afterwards if one of them failed."""
    done = threading.Event()

    def ask(number: int) -> int:
        asked = 0
        while not done.is_set():
            topologies.completion(client, f"# {number}, {asked}\n{LOAD}", max_tokens=1)  # nothing to be reused
            asked += 1
        return asked

    with futures.ThreadPoolExecutor(ASKING) as pool:
        asking = [pool.submit(ask, number) for number in range(ASKING)]
        try:
            yield
        finally:
            done.set()
        assert all(each.result() for each in asking)


def test_scaled_to_zero_and_back(elastic: str) -> None:
    scale(elastic, 0)
    zero = ("--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=ScaledToZero", "--timeout=30s")
    kubectl.run("wait", "itopo/chat", "--namespace", elastic, *zero)
    until(lambda: not replicas(elastic), "no cloud pod is left", namespace=elastic, deadline_s=30)
    assert topologies.conditions("chat", namespace=elastic)["Ready"] == ("False", "ScaledToZero")
    scale(elastic, 1)
    topologies.wait_ready("chat", namespace=elastic)
    with topologies.device("chat", namespace=elastic) as client:
        assert len(topologies.completion(client, PROMPT, max_tokens=4)) == 4


def test_somebody_elses_autoscaler_works_on_the_topology_itself(elastic: str) -> None:
    """As KEDA's do: it needs `cloud.replicas`, which the test before has set, and its account comes with Kubernetes."""
    target = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "chat"}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    kubectl.apply(
        [
            {
                "apiVersion": "autoscaling/v2",
                "kind": "HorizontalPodAutoscaler",
                "metadata": {"name": "somebody-elses", "namespace": elastic},
                "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 2, "metrics": [cpu]},
            }
        ]
    )
    until(lambda: grown(elastic), "two replicas are ready", namespace=elastic)
    kubectl.run("delete", "hpa", "somebody-elses", "--namespace", elastic)
    scale(elastic, 1)


def test_load_makes_it_grow_and_a_replica_that_goes_ends_its_answers(elastic: str) -> None:
    set_scaling(elastic, CPU)
    topologies.wait_condition("chat", "ScalingReady", "True", "MetricAvailable", namespace=elastic)
    with topologies.device("chat", namespace=elastic) as client:
        with load(client):
            until(lambda: grown(elastic), "two replicas are ready", namespace=elastic)
        with streams.streaming(client, PROMPT, max_tokens=LONG_TOKENS) as stream:
            busy = busy_replica(elastic)
            # Which of two replicas goes is Kubernetes' choice, and this is how to influence it.
            cost = "controller.kubernetes.io/pod-deletion-cost=-1"
            kubectl.run("annotate", "pod", busy, cost, "--namespace", elastic)
            until(lambda: busy not in replicas(elastic), f"{busy} is told to go", namespace=elastic)
            assert not stream.done, "the answer was over before its replica went"
            answer = stream.tokens()
    [expected] = unsplit.answers([PROMPT], max_tokens=LONG_TOKENS)
    assert answer[: len(expected)] == expected
    topologies.wait_ready("chat", namespace=elastic)
    assert len(replicas(elastic)) == 1


@pytest.fixture(scope="module")
def by_queue_time(elastic: str) -> Iterator[str]:
    """The operator has been told of the metric, and makes autoscalers that ask for it."""
    installation.install("--set", f"operator.queueMetric={QUEUE_METRIC}")
    set_scaling(elastic, CPU | {"targetQueueMilliseconds": 1})
    yield elastic
    installation.install("--set", "operator.queueMetric=")


def test_a_metric_that_nobody_serves_is_told(by_queue_time: str) -> None:
    namespace = by_queue_time
    topologies.wait_condition("chat", "ScalingReady", "False", "MetricMissing", namespace=namespace)
    message = topologies.condition("chat", "ScalingReady", namespace=namespace)["message"]
    assert message.startswith("chat-cloud: ") and QUEUE_METRIC in message
    assert topologies.conditions("chat", namespace=namespace)["Ready"][0] == "True"


def test_queue_time_makes_it_grow(by_queue_time: str, tmp_path: pathlib.Path) -> None:
    namespace = by_queue_time
    selector = "milliner.dev/topology=chat,milliner.dev/role=cloud"
    [trigger] = yaml.safe_load(KEDA.read_text(encoding="utf-8"))["spec"]["triggers"]
    by_keda = trigger["metadata"]["query"].replace('namespace="default"', f'namespace="{namespace}"')
    with prometheus_server.running(tmp_path) as prometheus, topologies.device("chat", namespace=namespace) as client:
        adapter = custom_metrics.Adapter(prometheus)
        until(adapter.discovered, "Prometheus has the metric", namespace=namespace)
        with custom_metrics.serving(adapter, tmp_path):
            topologies.wait_condition("chat", "ScalingReady", "True", "MetricAvailable", namespace=namespace)
            with load(client):
                until(lambda: grown(namespace), "two replicas are ready", namespace=namespace)
                pods = set(replicas(namespace))
                until(
                    lambda: adapter.values(namespace, selector).keys() == pods,
                    "each pod has a value",
                    namespace=namespace,
                )
                assert len(prometheus.query(by_keda)) == 1
