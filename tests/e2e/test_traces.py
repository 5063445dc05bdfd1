"""Traces leave the pods: the phases of one request, from device and cloud, arrive as one trace at an OTLP receiver."""

from __future__ import annotations

import time
from typing import Any

from tests.chart import charts, kubectl
from tests.e2e import otlp, topologies

TRACE = "5" * 32
ARRIVAL_S = 30.0  # exporters send in batches, every few seconds


def whole(found: list[dict[str, Any]]) -> bool:
    """Whether the phases of both tiers are there, and a span of the cloud below one of the device."""
    ids = {span["id"]: span for span in found}
    clouds = [span for span in found if span["service"] == "milliner-cloud" and span["name"].startswith("cloud ")]
    above = {ids[span["parent"]]["service"] for span in clouds if span["parent"] in ids}
    return above == {"milliner-device"} and {"network", "cloud_forward", "queue"} <= {span["name"] for span in found}


def test_a_request_is_one_trace_of_both_tiers(chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    kubectl.run("wait", "--for=condition=Ready", "pod/otlp", "--namespace", namespace, "--timeout=50s")
    with topologies.device("chat", namespace=namespace) as client:
        client.headers["traceparent"] = f"00-{TRACE}-{'b' * 16}-01"  # sampled because the caller's trace is
        topologies.completion(client, "def main(argv):\n", max_tokens=8)
    deadline = time.monotonic() + ARRIVAL_S
    while not whole(found := otlp.spans(namespace, trace=TRACE)):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
