"""Tests at a real API server: the one that KUBECONFIG names, of any cluster where they may create definitions.

Without KUBECONFIG they are skipped and say so. Each run works in namespaces of its own, which it deletes.
"""

from __future__ import annotations

import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
from tests.cluster import api_server, operator_process, worlds

NEEDED = (
    "needs a Kubernetes API server (1.30 or later): set KUBECONFIG to the kubeconfig of one where you may create "
    "definitions and namespaces, such as a kind cluster's"
)
NEEDED_IMAGE = (
    "needs nodes with an image of tests/cluster/stand_in (docker build tests/cluster/stand_in): set "
    "MILLINER_STAND_IN_IMAGE to its name there"
)
TEST_S = 600  # waits have deadlines of their own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder, so that `-m 'not cluster'` leaves them out."""
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(TEST_S))


@pytest.fixture(scope="session")
def kubeconfig() -> pathlib.Path:
    """The kubeconfig of the cluster under test; skips where there is none."""
    named = os.environ.get("KUBECONFIG", "")
    if not named:
        pytest.skip(NEEDED)
    return pathlib.Path(named.split(os.pathsep)[0])


@pytest.fixture(scope="session")
def server(kubeconfig: pathlib.Path) -> Iterator[api_server.ApiServer]:
    """The API server, with this checkout's CustomResourceDefinition established."""
    with api_server.connect(kubeconfig) as connected:
        connected.install_definition()
        yield connected


@pytest.fixture(scope="module")
def namespace(server: api_server.ApiServer) -> Iterator[str]:
    """A namespace of this test file's own."""
    name = server.create_namespace("milliner-test-")
    yield name
    server.delete_namespace(name)


@pytest.fixture(scope="module")
def world(
    server: api_server.ApiServer, kubeconfig: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[worlds.World]:
    """A namespace of this test file's own with an operator that watches it, and nothing else."""
    image = os.environ.get("MILLINER_STAND_IN_IMAGE", "")
    if not image:
        pytest.skip(NEEDED_IMAGE)
    namespace = server.create_namespace("milliner-operator-")
    enforced = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    server.request("PATCH", f"/api/v1/namespaces/{namespace}", body=enforced, content_type=api_server.MERGE)
    log = tmp_path_factory.mktemp("operator") / "log"
    operator = operator_process.OperatorProcess(kubeconfig=kubeconfig, namespace=namespace, image=image, log=log)
    operator.start()
    try:
        yield worlds.World(server=server, namespace=namespace, operator=operator, image=image)
    finally:
        operator.stop(signal.SIGKILL)
        server.delete_namespace(namespace)
