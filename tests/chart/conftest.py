"""Fixtures of the chart tests: the API server that KUBECONFIG names, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from tests.chart import kubectl


@pytest.fixture(scope="session")
def api_server() -> Iterator[None]:
    """An API server that takes what tests apply; skips where there is none. The tests' namespaces go afterwards."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(
            "needs a Kubernetes API server (1.30 or later): set KUBECONFIG to the kubeconfig of one where you may "
            "create definitions, roles and namespaces, such as a kind cluster's"
        )
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on the PATH")
    kubectl.apply([kubectl.namespace(name) for name in kubectl.NAMESPACES])
    yield
    kubectl.run("delete", "namespace", *kubectl.NAMESPACES, "--ignore-not-found", "--wait=false")
