"""The object at a real API server: columns, subresources, merging of lists, and what `kubectl explain` is made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster import api_server
from tests.unit.milliner.contract import documents_of

NAME = "chat"
STATUS = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": "Ready",
            "status": "True",
            "reason": "AllRolesReady",
            "message": "",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-11-21T10:00:00Z",
        }
    ],
    "summary": {"cloud": "2/2", "devices": "11/12"},
    "cloud": {
        "ready": 2,
        "desired": 2,
        "updated": 2,
        "replicas": 3,
        "revision": "6f7c9d",
        "endpoint": "chat-cloud:50051",
    },
    "probe": {"roundTripMicroseconds": 21400, "timeToFirstTokenMilliseconds": 640, "tokensPerSecond": 31},
    "selector": "milliner.dev/topology=chat,milliner.dev/role=cloud",
}


@pytest.fixture
def path(server: api_server.ApiServer, namespace: str) -> Iterator[str]:
    """The path of a topology that is stored for the time of a test."""
    server.request("POST", api_server.topologies(namespace), body=documents_of.changed({"spec.cloud.replicas": 2}))
    yield api_server.topologies(namespace, NAME)
    server.request("DELETE", api_server.topologies(namespace, NAME))


def write_status(server: api_server.ApiServer, path: str, status: dict[str, Any]) -> Any:
    return server.request("PATCH", f"{path}/status", body={"status": status}, content_type=api_server.MERGE)


def test_kubectl_get_shows_strategy_readiness_and_counts(server: api_server.ApiServer, path: str) -> None:
    write_status(server, path, STATUS)
    table = server.request("GET", path, accept=api_server.TABLE)
    names = [column["name"] for column in table["columnDefinitions"]]
    wide = [column["name"] for column in table["columnDefinitions"] if column["priority"]]
    shown = dict(zip(names, table["rows"][0]["cells"], strict=True))
    assert [name for name in names if name not in wide] == [
        *("Name", "Strategy", "Ready", "Reason", "Cloud", "Devices", "Age"),
    ]
    assert wide == ["Model", "Revision", "TTFT-ms"]
    del shown["Age"]
    assert shown == {
        "Name": NAME,
        "Strategy": "Hat",
        "Ready": "True",
        "Reason": "AllRolesReady",
        "Cloud": "2/2",
        "Devices": "11/12",
        "Model": "builtin://demo",
        "Revision": "6f7c9d",
        "TTFT-ms": 640,
    }


def test_scale_reads_and_writes_the_cloud_replicas(server: api_server.ApiServer, path: str) -> None:
    write_status(server, path, STATUS)
    scale = server.request("GET", f"{path}/scale")
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 3, "selector": STATUS["selector"]}
    server.request("PATCH", f"{path}/scale", body={"spec": {"replicas": 5}}, content_type=api_server.MERGE)
    assert server.request("GET", path)["spec"]["cloud"]["replicas"] == 5


def test_scale_is_refused_where_scaling_is_set(server: api_server.ApiServer, path: str) -> None:
    scaling = {"spec": {"cloud": {"replicas": None, "scaling": {"maxReplicas": 3}}}}
    server.request("PATCH", path, body=scaling, content_type=api_server.MERGE)
    with pytest.raises(api_server.Refused, match="with scaling, drop replicas"):
        server.request("PATCH", f"{path}/scale", body={"spec": {"replicas": 5}}, content_type=api_server.MERGE)


def test_status_is_written_only_through_its_subresource(server: api_server.ApiServer, path: str) -> None:
    server.request("PATCH", path, body={"status": STATUS}, content_type=api_server.MERGE)
    assert "status" not in server.request("GET", path)


def test_status_does_not_raise_the_generation_and_a_change_of_spec_does(
    server: api_server.ApiServer, path: str
) -> None:
    assert write_status(server, path, STATUS)["metadata"]["generation"] == 1
    changed = {"spec": {"cloud": {"replicas": 3}}}
    assert server.request("PATCH", path, body=changed, content_type=api_server.MERGE)["metadata"]["generation"] == 2


def test_a_wrong_condition_is_refused(server: api_server.ApiServer, path: str) -> None:
    wrong = copy.deepcopy(STATUS)
    wrong["conditions"][0] |= {"status": "Maybe", "reason": "not camel case"}  # type: ignore[index]
    with pytest.raises(api_server.Refused) as caught:
        write_status(server, path, wrong)
    assert {field for field, _ in caught.value.causes} >= {"status.conditions[0].status", "status.conditions[0].reason"}


def test_conditions_of_two_managers_merge_by_type(server: api_server.ApiServer, namespace: str, path: str) -> None:
    for kind in ("Ready", "CloudReady"):
        condition = {**STATUS["conditions"][0], "type": kind}  # type: ignore[index]
        document = {
            "apiVersion": "milliner.dev/v1alpha1",
            "kind": "InferenceTopology",
            "metadata": {"name": NAME, "namespace": namespace},
            "status": {"conditions": [condition]},
        }
        server.request(
            "PATCH", f"{path}/status", body=document, content_type=api_server.APPLY, fieldManager=f"test-{kind}"
        )
    found = server.request("GET", path)["status"]["conditions"]
    assert [condition["type"] for condition in found] == ["Ready", "CloudReady"]


def test_what_means_something_when_unset_is_not_filled_in(server: api_server.ApiServer, namespace: str) -> None:
    chunking = {"mode": "Dynamic", "maxTokens": 64}
    document = documents_of.changed({"spec.strategy": {"type": "Hat", "hat": {"chunking": chunking}}})
    spec = server.try_topology(namespace, document)["spec"]
    assert spec["strategy"]["hat"]["chunking"] == {"mode": "Dynamic", "minTokens": 16, "maxTokens": 64}
    assert "replicas" not in spec["cloud"]
    assert spec["cloud"]["engine"]["maxBatchTokens"] == 2048


def test_the_published_schema_is_whole(server: api_server.ApiServer, namespace: str) -> None:
    """kubectl explain reads this; the API server drops from it what is not structural."""
    published = server.request("GET", "/openapi/v3/apis/milliner.dev/v1alpha1")
    kind = published["components"]["schemas"]["dev.milliner.v1alpha1.InferenceTopology"]
    batch = kind["properties"]["spec"]["properties"]["cloud"]["properties"]["engine"]["properties"]["maxBatchTokens"]
    assert batch["description"].startswith("Token budget of one batch")
    assert batch["default"] == 2048
    found = server.request("GET", f"{api_server.DEFINITIONS}/inferencetopologies.milliner.dev")
    states = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert states["Established"] == "True"
    assert states["NamesAccepted"] == "True"
    assert states.get("NonStructuralSchema", "False") == "False"
