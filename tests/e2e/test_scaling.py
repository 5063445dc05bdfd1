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
SCALING = {"minReplicas": 1, "maxReplicas": 2, "scaleDownStabilizationSeconds": 300}
SCALED_S = 150  # metrics are 15 s old at most, the autoscaler looks every 15 s, a pod starts in 15 s; in doubt twice
SCRAPED_S = 30
QUEUE_METRIC = "milliner_queue_milliseconds"
CLOUD = "milliner.dev/topology=chat,milliner.dev/role=cloud"
KEDA = charts.ROOT / "manifests" / "autoscaling" / "keda-scaledobject.yaml"


@pytest.fixture(scope="module")
def elastic(namespace: str) -> Iterator[str]:
    """A topology that is ready, without an autoscaler; its namespace."""
    topology = topologies.small(namespace=namespace)
    topology["spec"]["devicePools"][0]["emulation"]["link"] = LINK
    topology["spec"]["cloud"]["pod"]["resources"]["requests"]["cpu"] = "200m"
    topology["spec"]["fallback"] = {"waitSeconds": 120}  # load may leave a replica no time to say that it lives
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


def ready(namespace: str) -> int:
    """Cloud pods that serve."""
    return int(kubectl.get("itopo", "chat", namespace=namespace)["status"]["cloud"]["ready"])


def desired(namespace: str) -> int:
    """Cloud pods that there are to be."""
    return int(kubectl.get("itopo", "chat", namespace=namespace)["status"]["cloud"]["desired"])


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
    """As KEDA's do: it needs `cloud.replicas`, and finds the pods by the selector in the status."""
    target = {"apiVersion": names.API_VERSION, "kind": names.KIND, "name": "chat"}
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "somebody-elses", "namespace": elastic},
        "spec": {"scaleTargetRef": target, "minReplicas": 2, "maxReplicas": 2, "metrics": [cpu]},
    }
    scale(elastic, 1)
    kubectl.apply([autoscaler])
    until(lambda: desired(elastic) == 2, "the topology has two replicas", namespace=elastic)
    kubectl.run("delete", "hpa", "somebody-elses", "--namespace", elastic)
    scale(elastic, 1)


@pytest.fixture(scope="module")
def grown(elastic: str) -> str:
    """Load has made the cloud grow to two replicas, by CPU; they stay for minutes."""
    set_scaling(elastic, SCALING)
    topologies.wait_condition("chat", "ScalingReady", "True", "MetricAvailable", namespace=elastic)
    with topologies.device("chat", namespace=elastic) as client, load(client):
        until(lambda: ready(elastic) == 2, "two replicas are ready", namespace=elastic)
    return elastic


def test_load_makes_it_grow(grown: str) -> None:
    topologies.wait_ready("chat", namespace=grown)
    assert topologies.condition("chat", "CloudReady", namespace=grown)["message"] == "2 of 2 ready"


@pytest.fixture(scope="module")
def by_queue_time(grown: str) -> Iterator[str]:
    """The operator has been told of the metric, and its autoscaler asks for it."""
    installation.install("--set", f"operator.queueMetric={QUEUE_METRIC}")
    yield grown
    installation.install("--set", "operator.queueMetric=")


def test_a_metric_that_nobody_serves_is_told(by_queue_time: str) -> None:
    topologies.wait_condition("chat", "ScalingReady", "False", "MetricMissing", namespace=by_queue_time)
    message = topologies.condition("chat", "ScalingReady", namespace=by_queue_time)["message"]
    assert message.startswith("chat-cloud: ") and QUEUE_METRIC in message
    assert topologies.conditions("chat", namespace=by_queue_time)["Ready"][0] == "True"


def test_short_queues_let_a_replica_go_which_ends_its_answers_first(by_queue_time: str, tmp_path: pathlib.Path) -> None:
    namespace = by_queue_time
    [trigger] = yaml.safe_load(KEDA.read_text(encoding="utf-8"))["spec"]["triggers"]
    by_keda = trigger["metadata"]["query"].replace('namespace="default"', f'namespace="{namespace}"')
    with (
        prometheus_server.running(tmp_path) as prometheus,
        topologies.device("chat", namespace=namespace) as client,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        adapter = custom_metrics.Adapter(prometheus)
        both = set(replicas(namespace))
        deadline = time.monotonic() + SCRAPED_S
        while (found := adapter.values(namespace, CLOUD)).keys() != both:
            assert time.monotonic() < deadline, (both, found, prometheus.query("up"))
            time.sleep(0.5)
        assert adapter.discovered() and len(both) == 2
        assert prometheus.query(by_keda)[0][1] == pytest.approx(sum(adapter.values(namespace, CLOUD).values()), abs=1)
        with streams.streaming(client, PROMPT, max_tokens=LONG_TOKENS) as stream:
            expecting = pool.submit(unsplit.answers, [PROMPT], max_tokens=LONG_TOKENS)
            busy = busy_replica(namespace)
            # Which of two replicas goes is Kubernetes' choice, and this is how to influence it.
            cost = "controller.kubernetes.io/pod-deletion-cost=-1"
            kubectl.run("annotate", "pod", busy, cost, "--namespace", namespace)
            set_scaling(namespace, SCALING | {"scaleDownStabilizationSeconds": 0})
            with custom_metrics.serving(adapter, tmp_path):
                until(lambda: busy not in replicas(namespace), f"{busy} is told to go", namespace=namespace)
                assert not stream.done, "the answer was over before its replica went"
                topologies.wait_condition("chat", "ScalingReady", "True", "MetricAvailable", namespace=namespace)
            answer = stream.tokens()
        [expected] = expecting.result()
    assert answer[: len(expected)] == expected
    topologies.wait_ready("chat", namespace=namespace)
    assert set(replicas(namespace)) == both - {busy}
