"""A second cluster for device pools: its API server, its kubeconfig as a Secret, and how to make it fall silent.

The variables are those of tests/e2e: MILLINER_TEST_EDGE_KUBECONFIG, whose server the operator reaches, and the shell
commands MILLINER_TEST_EDGE_STOP and MILLINER_TEST_EDGE_START. Its nodes have the stand-in's image too.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import api_server

KUBECONFIG, STOP, START = (f"MILLINER_TEST_EDGE_{each}" for each in ("KUBECONFIG", "STOP", "START"))
_COMMAND_S = 30.0
_KINDS = {
    "daemonsets": "/apis/apps/v1",
    "deployments": "/apis/apps/v1",
    "configmaps": "/api/v1",
    "secrets": "/api/v1",
    "services": "/api/v1",
    "serviceaccounts": "/api/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """The second cluster, in one namespace."""

    server: api_server.ApiServer
    namespace: str

    def children(self) -> list[str]:
        """What the operator has made there."""
        found = []
        for plural, root in _KINDS.items():
            path = f"{root}/namespaces/{self.namespace}/{plural}"
            labels = "app.kubernetes.io/managed-by=milliner-operator"
            items = self.server.request("GET", path, labelSelector=labels)["items"]
            found += [f"{plural}/{each['metadata']['name']}" for each in items]
        return found

    def secret(self) -> dict[str, Any]:
        """Its kubeconfig, for the cluster that the topology is in."""
        text = pathlib.Path(os.environ[KUBECONFIG]).read_bytes()
        data = {"kubeconfig": base64.b64encode(text).decode()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "edge"}, "data": data}

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Its API server does not answer meanwhile."""
        _shell(STOP)
        try:
            yield
        finally:
            _shell(START)


@contextlib.contextmanager
def connect(namespace: str) -> Iterator[Edge]:
    """With a namespace of that name at the edge; skips where there is no edge."""
    if missing := [each for each in (KUBECONFIG, STOP, START) if not os.environ.get(each)]:
        pytest.skip(f"needs a second cluster: set {', '.join(missing)} as tests/cluster/edge_cluster.py says")
    with api_server.connect(pathlib.Path(os.environ[KUBECONFIG])) as server:
        server.request("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace}})
        try:
            yield Edge(server, namespace)
        finally:
            server.delete_namespace(namespace)


def _shell(variable: str) -> None:
    subprocess.run(os.environ[variable], shell=True, check=True, timeout=_COMMAND_S)
