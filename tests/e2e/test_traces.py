"""Traces leave the pods: the phases of one request, from device and cloud, arrive as one trace at an OTLP receiver."""

from __future__ import annotations

import json
import pathlib
import time
from typing import Any

from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

RECEIVER = pathlib.Path(__file__).with_name("otlp_pod.py")
TRACE = "5" * 32
ARRIVAL_S = 30.0  # exporters send in batches, every few seconds


def receiver(namespace: str) -> list[charts.Document]:
    """A pod that runs tests/e2e/otlp_pod.py, its program, and the Service `otlp`."""
    metadata = {"name": "otlp", "namespace": namespace, "labels": {"app": "otlp"}}
    container = {
        "name": "receiver",
        "image": installation.RUNTIME_IMAGE,
        "command": ["python", "/program/otlp_pod.py"],
        "ports": [{"containerPort": 4317}],
        "readinessProbe": {"tcpSocket": {"port": 4317}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "program", "configMap": {"name": "otlp"}}],
    }
    program = {RECEIVER.name: RECEIVER.read_text(encoding="utf-8")}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {"selector": {"app": "otlp"}, "ports": [{"port": 4317}]},
        },
    ]


def spans(namespace: str) -> list[dict[str, Any]]:
    """What the receiver got of the request's trace."""
    lines = kubectl.run("logs", "otlp", "--namespace", namespace).splitlines()
    return [span for span in map(json.loads, lines) if span["trace"] == TRACE]


def whole(found: list[dict[str, Any]]) -> bool:
    """Whether the phases of both tiers are there, and a span of the cloud below one of the device."""
    ids = {span["id"]: span for span in found}
    clouds = [span for span in found if span["service"] == "milliner-cloud" and span["name"].startswith("cloud ")]
    above = {ids[span["parent"]]["service"] for span in clouds if span["parent"] in ids}
    return above == {"milliner-device"} and {"network", "cloud_forward", "queue"} <= {span["name"] for span in found}


def test_a_request_is_one_trace_of_both_tiers(namespace: str) -> None:
    kubectl.apply(receiver(namespace))
    tracing = {"otlpEndpoint": f"http://otlp.{namespace}.svc:4317", "samplingPercent": 1}
    kubectl.apply([topologies.small(namespace=namespace, tracing=tracing)])
    kubectl.run("wait", "--for=condition=Ready", "pod/otlp", "--namespace", namespace, "--timeout=50s")
    topologies.wait_ready("chat", namespace=namespace)
    with topologies.device("chat", namespace=namespace) as client:
        client.headers["traceparent"] = f"00-{TRACE}-{'b' * 16}-01"  # sampled because the caller's trace is
        topologies.completion(client, "def main(argv):\n", max_tokens=8)
    deadline = time.monotonic() + ARRIVAL_S
    while not whole(found := spans(namespace)):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    kubectl.run("delete", "itopo", "chat", "--namespace", namespace)
