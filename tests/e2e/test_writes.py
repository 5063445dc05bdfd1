"""An unchanged topology costs no writes, as the API server's own audit log counts them (MILLINER_TEST_AUDIT_LOG)."""

from __future__ import annotations

import json
import os
import pathlib
import time

import pytest
from tests.chart import charts, kubectl
from tests.e2e import installation, topologies

OPERATOR = f"system:serviceaccount:{charts.NAMESPACE}:{installation.RELEASE}"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
SETTLED_S = 5.0  # after Ready, for its events to be posted
PASS_S = 2.0  # a pass takes a fraction of that


@pytest.fixture
def audit_log() -> pathlib.Path:
    """The file with one event of the audit API a line."""
    named = os.environ.get("MILLINER_TEST_AUDIT_LOG")
    if not named:
        pytest.skip("needs the API server's audit log: set MILLINER_TEST_AUDIT_LOG to the file, JSON lines")
    return pathlib.Path(named)


def requests(log: pathlib.Path, *, after: int) -> list[tuple[str, str]]:
    """Verb and path of the operator's requests beyond the first `after` bytes of the log."""
    with log.open("rb") as opened:
        opened.seek(after)
        events = [json.loads(line) for line in opened.read().splitlines() if line.endswith(b"}")]
    return [(each["verb"], each["requestURI"]) for each in events if each["user"]["username"] == OPERATOR]


def test_passes_over_an_unchanged_topology_write_nothing(audit_log: pathlib.Path, namespace: str) -> None:
    kubectl.apply([topologies.small(namespace=namespace)])
    topologies.wait_ready("chat", namespace=namespace)
    time.sleep(SETTLED_S)
    start = audit_log.stat().st_size
    for number in range(3):  # each makes the operator look again; it changes no spec
        kubectl.run("annotate", "itopo", "chat", f"tests={number}", "--overwrite", "--namespace", namespace)
        time.sleep(PASS_S)
    made = requests(audit_log, after=start)
    assert len([path for verb, path in made if verb == "get" and path.endswith("/inferencetopologies/chat")]) >= 3, made
    assert [each for each in made if each[0] in WRITES] == []
    kubectl.run("delete", "itopo", "chat", "--namespace", namespace)
