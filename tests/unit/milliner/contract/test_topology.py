"""The schema: defaults of the smallest topology, and each refusal with path, what was found and what to write."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.milliner.contract import documents_of

from milliner.contract import errors, kinds, topology


def problems_of(changes: dict[str, Any]) -> list[str]:
    with pytest.raises(errors.SpecInvalid) as caught:
        topology.parse(documents_of.changed(changes))
    return [str(problem) for problem in caught.value.problems]


def test_smallest_topology_has_the_documented_defaults() -> None:
    spec = topology.parse(documents_of.SMALLEST).spec
    assert spec.cloud.desired_replicas == 1
    assert spec.cloud.kv_cache_bytes == 1 << 30
    assert spec.cloud.engine.max_batch_tokens == 2048
    assert spec.device_pools[0].api.port == 8080
    assert spec.device_pools[0].local_replicas == 1
    assert spec.model.dtype is kinds.Dtype.AUTO
    assert spec.tls.mode is kinds.TlsMode.MANAGED
    assert topology.parse(documents_of.SMALLEST).served_name == "chat"


def test_an_accelerator_raises_the_default_kv_cache() -> None:
    parsed = topology.parse(documents_of.changed({"spec.cloud.accelerator": {}}))
    assert parsed.spec.cloud.kv_cache_bytes == 16 << 30


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
    ("changes", "message"),
    [
        (
            {"spec.strategy.hat": {"splitLayr": 2}},
            "spec.strategy.hat.splitLayr: unknown field, did you mean splitLayer?",
        ),
        (
            {"spec.strategy.hat": {"split_layer": 2}},
            "spec.strategy.hat.split_layer: unknown field, did you mean splitLayer?",
        ),
        ({"spec.clowd": {}}, "spec.clowd: unknown field, did you mean cloud?"),
        (
            {"spec.strategy.hat": {"codec": {"zzz": 1}}},
            "spec.strategy.hat.codec.zzz: unknown field, known here: prompt, exactTailTokens, decode",
        ),
        ({"spec.model": {}}, "spec.model.source: is required"),
        ({"spec.model.dtype": "bf16"}, "spec.model.dtype: found 'bf16', use one of Auto, Float32, BFloat16, Float16"),
        ({"spec.cloud.replicas": "2"}, "spec.cloud.replicas: found '2', use a whole number without quotes"),
        ({"spec.cloud.replicas": True}, "spec.cloud.replicas: found true, use a whole number without quotes"),
        ({"spec.cloud.replicas": 1.5}, "spec.cloud.replicas: found 1.5, use a whole number without quotes"),
        ({"spec.devicePools.0.api": {"port": 70000}}, "spec.devicePools[0].api.port: found 70000, use 65535 or less"),
        ({"spec.devicePools.0.api": {"port": 0}}, "spec.devicePools[0].api.port: found 0, use 1 or more"),
        ({"spec.devicePools": {"name": "a"}}, 'spec.devicePools: found {"name": "a"}, use a list'),
        ({"spec.strategy": "Hat"}, "spec.strategy: found 'Hat', use a mapping of fields"),
        (
            {"spec.model.digest": "sha256:12"},
            "spec.model.digest: 'sha256:12' is no SHA-256 digest: write sha256: and 64 hexadecimal digits, lower case",
        ),
        (
            {"metadata.name": "Chat"},
            "metadata.name: 'Chat' is no DNS label: use lower-case letters, digits and hyphens, a letter or digit at "
            "both ends",
        ),
        (
            {"spec.model.source": "ftp://x"},
            "spec.model.source: 'ftp://x' starts with ftp://, which is unknown: use hf://org/name@revision, "
            "pvc://claim/path, https://host/path, builtin://demo, file:///folder or a folder's path",
        ),
    ],
)
def test_schema_refuses(changes: dict[str, Any], message: str) -> None:
    assert problems_of(changes) == [message]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"spec.strategy": {"type": "UShape", "hat": {}}},
            "strategy.hat is set but strategy.type is UShape: move the options to strategy.uShape or set type: Hat",
        ),
        (
            {"spec.strategy": {"type": "CloudOnly", "uShape": {}}},
            "strategy.uShape is set but strategy.type is CloudOnly: remove it or set type: UShape",
        ),
        (
            {"spec.strategy.hat": {"chunking": {"minTokens": 512, "maxTokens": 256}}},
            "chunking.minTokens (512) is above maxTokens (256)",
        ),
        (
            {"spec.strategy.hat": {"chunking": {"tokens": 512}}},
            "chunking.tokens is set but chunking.mode is Dynamic: set mode: Fixed, or use minTokens and maxTokens with "
            "mode: Dynamic",
        ),
        (
            {"spec.cloud": {"replicas": 2, "scaling": {"maxReplicas": 3}}},
            "cloud.replicas and cloud.scaling are both set: with scaling, drop replicas",
        ),
        (
            {"spec.cloud.scaling": {"minReplicas": 4, "maxReplicas": 3}},
            "scaling.minReplicas (4) is above maxReplicas (3)",
        ),
        ({"spec.devicePools": []}, "devicePools: at least one pool is needed (type CloudOnly needs none)"),
        (
            {"spec.devicePools": [{"name": "a"}, {"name": "b"}, {"name": "a"}]},
            "devicePools: the name a is used 2 times: give each pool its own",
        ),
        (
            {"spec.devicePools": [{"name": f"p{index}"} for index in range(64)]},
            "has 64 entries, use at most 63",
        ),
        (
            {"spec.devicePools.0.model": {"source": "builtin://demo"}},
            "devicePools: pool local names a model but strategy.type is Hat, which splits spec.model: drop it, or set "
            "type: PDDevice or DeviceOnly",
        ),
        (
            {"spec.cloud.engine": {"type": "External", "external": {"url": "http://vllm/v1"}}},
            "cloud.engine.type is External but strategy.type is Hat, whose cloud computes a slice: set engine.type: "
            "Builtin, or strategy.type: PDDevice or CloudOnly",
        ),
        (
            {"spec.strategy.type": "PDDevice", "spec.cloud.engine": {"type": "External"}},
            "cloud.engine.type is External but external is not set: give external.url",
        ),
        (
            {"spec.strategy": {"type": "PDDevice", "pdDevice": {"pacing": {"minIntervalMilliseconds": 60}}}},
            "pacing.minIntervalMilliseconds (60) is above maxIntervalMilliseconds (50)",
        ),
        (
            {"spec.strategy.type": "UShape", "spec.fallback": {"onCloudLoss": "DraftOnly"}},
            "fallback.onCloudLoss is DraftOnly but strategy.type is UShape, which has no drafting model: use Wait or "
            "Fail, or set type: Hat",
        ),
    ],
)
def test_rules_refuse(changes: dict[str, Any], message: str) -> None:
    found = problems_of(changes)
    assert len(found) == 1
    assert found[0].endswith(f": {message}")


def test_cloud_only_needs_no_pool() -> None:
    parsed = topology.parse(documents_of.changed({"spec.strategy.type": "CloudOnly", "spec.devicePools": []}))
    assert parsed.spec.device_pools == ()


def test_every_problem_is_reported_at_once() -> None:
    found = problems_of({"spec.model.dtype": "x", "spec.cloud.replicas": -1, "spec.foo": 1})
    assert len(found) == 3
