"""Admission at a real API server: what it refuses and with which words, beside what `topology.parse` says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.cluster import api_server
from tests.unit.milliner.contract import bad_specs

from milliner.contract import errors, topology


def refusal(server: api_server.ApiServer, namespace: str, document: dict[str, Any]) -> api_server.Refused:
    with pytest.raises(api_server.Refused) as caught:
        server.try_topology(namespace, document)
    return caught.value


def parse_problem(document: dict[str, Any]) -> errors.Problem:
    with pytest.raises(errors.SpecInvalid) as caught:
        topology.parse(document)
    [problem] = caught.value.problems
    return problem


def dotted(path: str) -> str:
    """A path as the API server writes it, with the keys of maps as Python does: `requests[cpu]` is `requests.cpu`."""
    return re.sub(r"\[([^]\d][^]]*)\]", r".\1", path)


def name_of(bad: bad_specs.BadSpec) -> str:
    return f"{bad.path}: {bad.message}"[:80]


@pytest.mark.parametrize("bad", bad_specs.RULES, ids=name_of)
def test_a_broken_rule_is_refused_with_the_words_of_parse(
    bad: bad_specs.BadSpec, server: api_server.ApiServer, namespace: str
) -> None:
    problem = parse_problem(bad.document)
    causes = refusal(server, namespace, bad.document).causes
    words = [message for field, message in causes if dotted(field) == problem.path]
    assert any(message.endswith(f": {problem.message}") for message in words), causes


# How Kubernetes says what the schema's own words say: a pattern for each kind of remedy.
KUBERNETES_WORDS = {
    r"is required": r"Required value",
    r"use one of (.+)": r"Unsupported value.*supported values",
    r"use (\d+) or more": r"should be greater than or equal to \1",
    r"use (\d+) or less": r"should be less than or equal to \1",
    r"whole number without quotes": r"must be of type integer",
    r"use a list": r"must be of type array",
    r"use a mapping of fields": r"must be of type object",
    r"use at most (\d+)": r"must have at most \1 items",
    r"use text of at most (\d+) characters": r"may not be more than \1 bytes",
    r"use text of at least (\d+) characters": r"should be at least \1 chars long",
}


@pytest.mark.parametrize("bad", bad_specs.SCHEMA, ids=name_of)
def test_what_the_schema_refuses_is_refused_at_the_same_field_for_the_same_reason(
    bad: bad_specs.BadSpec, server: api_server.ApiServer, namespace: str
) -> None:
    problem = parse_problem(bad.document)
    causes = refusal(server, namespace, bad.document).causes
    words = " / ".join(message for field, message in causes if field == problem.path)
    remedy, expected = next(
        (found, said)
        for said_here, said in KUBERNETES_WORDS.items()
        if (found := re.search(said_here, problem.message))
    )
    assert re.search(remedy.expand(expected), words), causes


@pytest.mark.parametrize("bad", bad_specs.UNKNOWN, ids=name_of)
def test_an_unknown_field_is_named(bad: bad_specs.BadSpec, server: api_server.ApiServer, namespace: str) -> None:
    problem = parse_problem(bad.document)
    assert f'unknown field "{problem.path}"' in refusal(server, namespace, bad.document).message


def test_several_problems_are_told_at_once(server: api_server.ApiServer, namespace: str) -> None:
    bad = {
        **bad_specs.RULES[0].changes,
        "spec.model.source": "s3://x",
        "spec.cloud.scaling": {"minReplicas": 3, "maxReplicas": 2},
    }
    document = bad_specs.BadSpec(bad, "", "").document
    with pytest.raises(errors.SpecInvalid) as caught:
        topology.parse({**document, "spec": {**document["spec"], "model": {"source": "builtin://demo"}}})
    told = refusal(server, namespace, document).message
    assert len(caught.value.problems) == 2
    assert all(problem.message in told for problem in caught.value.problems)
    assert "'s3://x' starts with s3://" in told
