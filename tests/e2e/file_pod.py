"""A pod that serves the demo model's files over HTTP with ranges, as a file server in somebody's cluster would."""

from __future__ import annotations

from tests.chart import charts
from tests.e2e import installation

NAME = "files"
PORT = 8000
_PROGRAM = f"""
import uvicorn
from starlette import applications, routing, staticfiles
from milliner.demo import assets
files = staticfiles.StaticFiles(directory=assets.model_dir().parent)
uvicorn.run(applications.Starlette(routes=[routing.Mount("/", files)]), host="0.0.0.0", port={PORT})
"""


def model_url(namespace: str) -> str:
    """Where pods find the model."""
    return f"http://{NAME}.{namespace}.svc:{PORT}/model"


def manifests(namespace: str) -> list[charts.Document]:
    """Pod and Service."""
    metadata = {"name": NAME, "namespace": namespace, "labels": {"app": NAME}}
    container = {
        "name": "server",
        "image": installation.RUNTIME_IMAGE,
        "command": ["python", "-c", _PROGRAM],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "containers": [container],
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 1,
    }
    service = {"selector": {"app": NAME}, "ports": [{"port": PORT}]}
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]
