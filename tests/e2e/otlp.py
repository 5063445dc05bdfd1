"""The OTLP receiver of the shared topology: a pod that runs tests/e2e/otlp_pod.py, and the spans that it has got."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from tests.chart import charts, kubectl
from tests.e2e import installation

PROGRAM = pathlib.Path(__file__).with_name("otlp_pod.py")
PORT = 4317


def endpoint(namespace: str) -> str:
    """The URL that a topology in any namespace exports to."""
    return f"http://otlp.{namespace}.svc:{PORT}"


def receiver(namespace: str) -> list[charts.Document]:
    """The pod, its program, and the Service `otlp`."""
    metadata = {"name": "otlp", "namespace": namespace, "labels": {"app": "otlp"}}
    container = {
        "name": "receiver",
        "image": installation.RUNTIME_IMAGE,
        "command": ["python", f"/program/{PROGRAM.name}"],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "program", "configMap": {"name": "otlp"}}],
    }
    program = {PROGRAM.name: PROGRAM.read_text(encoding="utf-8")}
    service = {"selector": {"app": "otlp"}, "ports": [{"port": PORT}]}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": program},
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]


def spans(namespace: str, *, trace: str) -> list[dict[str, Any]]:
    """What the receiver got of one trace."""
    lines = kubectl.run("logs", "otlp", "--namespace", namespace).splitlines()
    return [span for span in map(json.loads, lines) if span["trace"] == trace]
