"""A real Prometheus that scrapes a topology's pods as the chart's PodMonitor asks for, from wherever the tests run.

It is Debian's `prometheus` beside the tests, which cannot look for pods itself: a thread does, and hands it what others
find, by the same names. It reaches pods through `kubectl proxy`, and so needs no way into the cluster but
KUBECONFIG.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import httpx
import pytest
import yaml
from tests.chart import charts, kubectl
from tests.e2e import proxy

_UP_S = 30.0
_DISCOVERY_S = 1.0
_META = "__meta_kubernetes_pod"


class Prometheus:
    """Queries of a running server."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=10.0)

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant vector."""
        answer = self._client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, answer.text
        data = answer.json()["data"]
        assert data["resultType"] == "vector", data
        return [(each["metric"], float(each["value"][1])) for each in data["result"]]

    def close(self) -> None:
        self._client.close()


@contextlib.contextmanager
def running(folder: pathlib.Path) -> Iterator[Prometheus]:
    """A Prometheus that has started; skips where there is none."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not on the PATH: on Debian or Ubuntu, apt-get install prometheus")
    targets = folder / "targets.json"
    with proxy.running() as api_port, _discovering(targets):
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(configuration(api_port, targets)), encoding="utf-8")
        port = _free_port()
        options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
        command = [program, *options, f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        log = folder / "prometheus.log"
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
            found = Prometheus(f"http://127.0.0.1:{port}")
            try:
                deadline = time.monotonic() + _UP_S
                while not found.ready():
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.2)
                yield found
            finally:
                found.close()
                process.kill()


def configuration(api_port: int, targets: pathlib.Path) -> dict[str, Any]:
    """What prometheus-operator makes of the chart's PodMonitor, with pods reached through the API server."""
    monitor = charts.only(charts.rendered(sets={"metrics.podMonitor.enabled": "true"}), "PodMonitor")["spec"]
    [endpoint] = monitor["podMetricsEndpoints"]
    relabel: list[dict[str, Any]] = [
        _keep(f"{_META}_container_port_name", endpoint["port"]),
        *(_selected(each) for each in monitor["selector"]["matchExpressions"]),
        _take("__meta_kubernetes_namespace", "namespace"),
        _take(f"{_META}_name", "pod"),
        *(_take(f"{_META}_label_{_sanitized(label)}", _sanitized(label)) for label in monitor["podTargetLabels"]),
        {
            "source_labels": ["__meta_kubernetes_namespace", f"{_META}_name", f"{_META}_container_port_number"],
            "separator": "/",
            "regex": "(.+)/(.+)/(.+)",
            "target_label": "__metrics_path__",
            "replacement": f"/api/v1/namespaces/$1/pods/$2:$3/proxy{endpoint['path']}",
        },
        {"target_label": "__address__", "replacement": f"127.0.0.1:{api_port}"},
    ]
    job = {
        "job_name": "topologies",
        "scrape_interval": "2s",
        "scrape_timeout": "2s",
        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "2s"}],
        "relabel_configs": relabel,
    }
    return {"scrape_configs": [job]}


def _selected(expression: dict[str, Any]) -> dict[str, Any]:
    """One of the PodMonitor's selector expressions as a relabelling."""
    label = _sanitized(expression["key"])
    match expression["operator"]:
        case "Exists":
            return _keep(f"{_META}_labelpresent_{label}", "true")
        case "NotIn":
            return _keep(f"{_META}_label_{label}", "|".join(expression["values"])) | {"action": "drop"}
    raise AssertionError(f"the PodMonitor selects by {expression['operator']}: say what Prometheus makes of it")


def _keep(label: str, regex: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": regex, "action": "keep"}


def _take(source: str, target: str) -> dict[str, Any]:
    return {"source_labels": [source], "target_label": target}


def discovered() -> list[dict[str, Any]]:
    """A target for each port of each pod that runs, with the labels that discovery by kind "pod" gives it."""
    pods = json.loads(kubectl.run("get", "pods", "--all-namespaces", "--output", "json"))["items"]
    groups = []
    for pod in pods:
        metadata, address = pod["metadata"], pod["status"].get("podIP")
        labels = {"__meta_kubernetes_namespace": metadata["namespace"], f"{_META}_name": metadata["name"]}
        for label, value in metadata.get("labels", {}).items():
            labels |= {f"{_META}_label_{_sanitized(label)}": value, f"{_META}_labelpresent_{_sanitized(label)}": "true"}
        ports = [port for container in pod["spec"]["containers"] for port in container.get("ports", ())]
        for port in ports if address else ():
            number = str(port["containerPort"])
            of_port = {f"{_META}_container_port_number": number, f"{_META}_container_port_name": port.get("name", "")}
            groups.append({"targets": [f"{address}:{number}"], "labels": labels | of_port})
    return groups


@contextlib.contextmanager
def _discovering(path: pathlib.Path) -> Iterator[None]:
    """Keeps the targets in a file while it is entered."""
    done = threading.Event()

    def write() -> None:
        new = path.with_suffix(".new.json")
        new.write_text(json.dumps(discovered()), encoding="utf-8")
        new.replace(path)

    def keep() -> None:
        while not done.wait(_DISCOVERY_S):
            write()

    write()
    with futures.ThreadPoolExecutor(1) as pool:
        keeping = pool.submit(keep)
        try:
            yield
        finally:
            done.set()
            keeping.result()  # what ended it early is what the test is to be told


def _sanitized(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port
