"""The second cluster, at the edge: its rights for the operator as manifests/edge says, and its API server's outages.

MILLINER_TEST_EDGE_KUBECONFIG names its kubeconfig, with a server that pods of the first cluster reach.
MILLINER_TEST_EDGE_STOP and MILLINER_TEST_EDGE_START are shell commands that stop its API server and bring it back.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import yaml
from tests.chart import charts, kubectl

RIGHTS = pathlib.Path(__file__).parents[2] / "manifests" / "edge" / "rights.yaml"
ACCOUNT = "milliner-remote"
DEADLINE_S = 30.0
VARIABLES = ("MILLINER_TEST_EDGE_KUBECONFIG", "MILLINER_TEST_EDGE_STOP", "MILLINER_TEST_EDGE_START")


def run(*arguments: str, documents: list[charts.Document] | None = None) -> str:
    """kubectl at the edge cluster."""
    return kubectl.run("--kubeconfig", os.environ[VARIABLES[0]], *arguments, documents=documents or ())


def prepare(namespace: str) -> charts.Document:
    """Makes namespace and rights at the edge; returns the Secret `edge` for the topology's cluster."""
    rights = [each for each in yaml.safe_load_all(RIGHTS.read_text(encoding="utf-8")) if each]
    for each in rights:
        each["metadata"]["namespace"] = namespace
        for subject in each.get("subjects", ()):
            subject["namespace"] = namespace
    apply = ("apply", "--server-side", "--filename", "-")
    run(*apply, documents=[kubectl.namespace(namespace)])
    run(*apply, documents=rights)
    data = _token(namespace)
    server = yaml.safe_load(pathlib.Path(os.environ[VARIABLES[0]]).read_text(encoding="utf-8"))["clusters"][0]
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "edge",
                "cluster": {"server": server["cluster"]["server"], "certificate-authority-data": data["ca.crt"]},
            }
        ],
        "users": [{"name": "milliner", "user": {"token": base64.b64decode(data["token"]).decode()}}],
        "contexts": [{"name": "edge", "context": {"cluster": "edge", "user": "milliner"}}],
        "current-context": "edge",
    }
    metadata = {"name": "edge", "namespace": namespace}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "stringData": {"kubeconfig": json.dumps(kubeconfig)},
    }


def children(namespace: str) -> list[str]:
    """What the operator has made at the edge."""
    kinds = "daemonsets,deployments,configmaps,secrets,services,serviceaccounts,networkpolicies"
    selector = ("--selector", "app.kubernetes.io/managed-by=milliner-operator", "--output", "name")
    return run("get", kinds, "--namespace", namespace, *selector).split()


@contextlib.contextmanager
def api_server_stopped() -> Iterator[None]:
    """The edge's API server does not answer meanwhile."""
    _shell(VARIABLES[1])
    try:
        yield
    finally:
        _shell(VARIABLES[2])


def _shell(variable: str) -> None:
    subprocess.run(os.environ[variable], shell=True, check=True, timeout=DEADLINE_S)


def _token(namespace: str) -> dict[str, Any]:
    """The data of the account's Secret, once the control plane has filled it in."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = json.loads(run("get", "secret", ACCOUNT, "--namespace", namespace, "--output", "json"))
        if "token" in (data := found.get("data") or {}):
            return dict(data)
        assert time.monotonic() < deadline, "the edge cluster gives the account no token"
        time.sleep(0.2)
