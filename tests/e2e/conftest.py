"""End to end on real nodes: the charts, installed into the cluster that KUBECONFIG names. Skipped where it is not set.

The nodes must have the images already, or be able to pull them: MILLINER_TEST_OPERATOR_IMAGE and
MILLINER_TEST_RUNTIME_IMAGE name them (`milliner/operator:test`, `milliner/runtime:test`). With kind:
`docker build --target operator -t milliner/operator:test .`, the same for `runtime`, `kind load docker-image ...`.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator

import pytest
from tests.chart import charts, kubectl
from tests.e2e import installation, otlp, ready_watch, topologies

NEEDED = (
    "needs a Kubernetes cluster (1.30 or later) whose nodes have Milliner's images: set KUBECONFIG to its kubeconfig; "
    "with kind, see manifests/kind"
)

TEST_S = 600  # waits have deadlines of their own
WATCHED = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """How long Ready was True over requests that failed, by fault."""
    for line in config.stash.get(WATCHED, []):
        terminalreporter.write_line(line)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test of this folder, so that `-m 'not e2e'` leaves them out."""
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(TEST_S))


@pytest.fixture(scope="session")
def cluster() -> None:
    """There is a cluster and what talks to it; skips where not."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(NEEDED)
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on the PATH")


@pytest.fixture(scope="session")
def milliner(cluster: None) -> Iterator[str]:
    """Both charts, installed and with a running operator; the namespace they are in. Uninstalled at the end."""
    found = installation.definition_exists()
    installation.install()
    yield charts.NAMESPACE
    installation.uninstall(definition=not found)


@pytest.fixture(scope="module")
def namespace(milliner: str) -> Iterator[str]:
    """A namespace for the topologies of one file."""
    with _new_namespace() as name:
        yield name


@pytest.fixture(scope="session")
def shared(milliner: str) -> Iterator[charts.Document]:
    """The sample `chat`, ready, with traces of sampled requests; for all tests that want `chat`."""
    with _new_namespace() as name:
        topology = topologies.sample("hat-emulated.yaml", namespace=name)
        topology["spec"]["tracing"] = {"otlpEndpoint": otlp.endpoint(name), "samplingPercent": 1}
        kubectl.apply([*otlp.receiver(name), topology])
        topologies.wait_ready("chat", namespace=name, deadline_s=topologies.READY_S)
        yield topology


@pytest.fixture
def chat(shared: charts.Document) -> Iterator[charts.Document]:
    """The shared topology, ready at first. It is a copy to change and apply; afterwards it is applied as it was."""
    topologies.wait_ready("chat", namespace=shared["metadata"]["namespace"])
    yield copy.deepcopy(shared)
    kubectl.apply([shared])


@pytest.fixture
def watched(chat: charts.Document, request: pytest.FixtureRequest) -> Iterator[None]:
    """All through the test, Ready may not be True while a request fails."""
    told = request.config.stash.setdefault(WATCHED, [])
    with ready_watch.watching(chat["metadata"]["namespace"], told=told, fault=request.node.name):
        yield


@contextlib.contextmanager
def _new_namespace() -> Iterator[str]:
    """A namespace under Pod Security "restricted"; it goes with all in it, topologies first."""
    name = f"milliner-e2e-{uuid.uuid4().hex[:8]}"
    kubectl.apply([kubectl.namespace(name)])
    yield name
    kubectl.run("delete", "inferencetopologies", "--all", "--namespace", name, "--wait=false")
    kubectl.run("delete", "namespace", name, "--wait=false")
