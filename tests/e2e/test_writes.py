"""An unchanged topology costs no writes, as the API server's own audit log counts them (MILLINER_TEST_AUDIT_LOG)."""

from __future__ import annotations

import json
import os
import pathlib
import time

import pytest
from tests.chart import charts, kubectl
from tests.e2e import installation

OPERATOR = f"system:serviceaccount:{charts.NAMESPACE}:{installation.RELEASE}"
WRITES = {"create", "update", "patch", "delete", "deletecollection"}
CALM_S = 2.0  # without a write after Ready, for its events to be posted; after the last pass, for what it may write
DEADLINE_S = 30.0
TOPOLOGY = "/inferencetopologies/chat"


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


def looks(made: list[tuple[str, str]], namespace: str) -> int:
    """Passes over the topology: each begins by reading it."""
    return sum(verb == "get" and path.endswith(f"/{namespace}{TOPOLOGY}") for verb, path in made)


def writes(made: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [each for each in made if each[0] in WRITES]


def calm(log: pathlib.Path) -> int:
    """Waits until the operator has written nothing for `CALM_S`; the log's size then."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        start = log.stat().st_size
        time.sleep(CALM_S)
        if not (found := writes(requests(log, after=start))):
            return start
        assert time.monotonic() < deadline, found


def settled_status(namespace: str) -> dict[str, object]:
    """The status without the figures that devices measure, which move where they differ by a tenth."""
    status: dict[str, object] = kubectl.get("itopo", "chat", namespace=namespace)["status"]
    return {name: value for name, value in status.items() if name != "probe"}


def test_passes_over_an_unchanged_topology_write_nothing(audit_log: pathlib.Path, chat: charts.Document) -> None:
    namespace = chat["metadata"]["namespace"]
    start = calm(audit_log)
    before = settled_status(namespace)
    deadline = time.monotonic() + DEADLINE_S
    for number in range(1, 4):  # each annotation makes the operator look again; it changes no spec
        kubectl.run("annotate", "itopo", "chat", f"tests={number}", "--overwrite", "--namespace", namespace)
        while looks(made := requests(audit_log, after=start), namespace) < number:
            assert time.monotonic() < deadline, made
            time.sleep(0.2)
    time.sleep(CALM_S)
    made = writes(requests(audit_log, after=start))
    assert [each for each in made if f"{TOPOLOGY}/status" not in each[1]] == []
    assert settled_status(namespace) == before, "a status is written for figures of the probe alone"
