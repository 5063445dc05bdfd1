"""The definition and `topology.parse` say the same of any document, and filling in defaults changes no meaning."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import yaml
from tests.cluster import api_server, drawn_topologies

from milliner.contract import errors, topology

SAMPLES = sorted((pathlib.Path(__file__).parents[2] / "manifests" / "samples").glob("*.yaml"))
SEED, EACH = 20261121, 150  # arbitrary; more seeds were tried by hand


def meaning(document: dict[str, Any]) -> dict[str, Any]:
    return topology.parse(document).spec.document()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_taken_and_means_the_same(path: pathlib.Path, server: api_server.ApiServer, namespace: str) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert meaning(server.try_topology(namespace, document)) == meaning(document)


def test_what_parse_takes_is_taken_and_means_the_same(server: api_server.ApiServer, namespace: str) -> None:
    taken, _ = drawn_topologies.split(SEED, each=EACH)
    for document in taken:
        assert meaning(server.try_topology(namespace, document)) == meaning(document)


def test_what_parse_refuses_is_refused_with_the_same_words(server: api_server.ApiServer, namespace: str) -> None:
    _, refused = drawn_topologies.split(SEED, each=EACH)
    for document in refused:
        with pytest.raises(errors.SpecInvalid) as wrong:
            topology.parse(document)
        with pytest.raises(api_server.Refused) as caught:
            server.try_topology(namespace, document)
        missing = [problem for problem in wrong.value.problems if problem.message not in caught.value.message]
        assert not missing, (document, caught.value.message)
