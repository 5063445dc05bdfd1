"""The schema: defaults of the smallest topology, and each refusal with path, what was found and what to write."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.milliner.contract import bad_specs, documents_of

from milliner.contract import devices, errors, kinds, topology


def problems_of(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(errors.SpecInvalid) as caught:
        topology.parse(documents_of.changed(changes))
    return [str(problem) for problem in caught.value.problems]


def test_smallest_topology_has_the_documented_defaults() -> None:
    spec = topology.parse(documents_of.SMALLEST).spec
    assert spec.cloud.desired_replicas == 1
    assert spec.cloud.kv_cache_bytes == 1 << 30
    assert spec.cloud.kv_swap_bytes == 0
    assert spec.cloud.engine.max_batch_tokens == 2048
    assert spec.device_pools[0].api.port == 8080
    assert spec.device_pools[0].local_replicas == 1
    assert spec.model.dtype is kinds.Dtype.AUTO
    assert spec.tls.mode is kinds.TlsMode.MANAGED
    assert topology.parse(documents_of.SMALLEST).served_name == "chat"


def test_an_accelerator_raises_the_default_kv_cache() -> None:
    parsed = topology.parse(documents_of.changed({"spec.cloud.accelerator": {}}))
    assert parsed.spec.cloud.kv_cache_bytes == 16 << 30
    assert parsed.spec.cloud.kv_swap_bytes == 4 << 30


def test_chunking_of_u_shape_is_off_unless_asked_for() -> None:
    parsed = topology.parse(
        documents_of.changed({"spec.strategy": {"type": "UShape", "uShape": {"chunking": {"maxTokens": 2000}}}})
    )
    assert parsed.spec.strategy.u_shape is not None
    assert parsed.spec.strategy.u_shape.chunking.mode is kinds.ChunkingMode.NONE


def test_what_kubernetes_adds_to_metadata_and_status_is_taken() -> None:
    parsed = topology.parse(
        documents_of.changed({"metadata.uid": "1", "metadata.managedFields": [{}], "status": {"conditions": []}})
    )
    assert parsed.name == "chat"


@pytest.mark.parametrize(
    "bad", [*bad_specs.RULES, *bad_specs.SCHEMA, *bad_specs.UNKNOWN], ids=lambda bad: f"{bad.path}: {bad.message}"[:80]
)
def test_refusal_names_field_and_remedy(bad: bad_specs.BadSpec) -> None:
    assert problems_of(bad.changes) == [f"{bad.path}: {bad.message}"]


def test_an_explicit_null_is_an_unset_field_as_for_the_api_server() -> None:
    parsed = topology.parse(documents_of.changed({"spec.cloud": {"replicas": None, "engine": {"type": None}}}))
    assert parsed.spec.cloud.replicas is None
    assert parsed.spec.cloud.engine.type is kinds.EngineType.BUILTIN


def test_an_amount_may_be_a_number_and_is_text_inside() -> None:
    parsed = topology.parse(documents_of.changed({"spec.cloud.pod": {"resources": {"limits": {"cpu": 2}}}}))
    assert parsed.spec.cloud.pod.resources.limits == {"cpu": "2"}


def test_cloud_only_needs_no_pool() -> None:
    parsed = topology.parse(documents_of.changed({"spec.strategy.type": "CloudOnly", "spec.devicePools": []}))
    assert parsed.spec.device_pools == (devices.GATEWAY,)


def test_every_problem_is_reported_at_once() -> None:
    found = problems_of({"spec.model.dtype": "x", "spec.cloud.replicas": -1, "spec.foo": 1})
    assert len(found) == 3
