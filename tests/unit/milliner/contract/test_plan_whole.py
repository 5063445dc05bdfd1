"""From topologies of whole models to configurations of roles."""

from __future__ import annotations

from typing import Any

import pytest

from milliner.contract import errors, kinds, plan, plan_whole, topology

FACTS = plan.ModelFacts(model_path="/models/large", num_layers=32, dtype=kinds.Dtype.BFLOAT16)
SMALL = plan.ModelFacts(model_path="/models/small", num_layers=12, dtype=kinds.Dtype.FLOAT16)


def wanted(kind: str, **spec: Any) -> topology.InferenceTopology:
    document = {
        "apiVersion": "milliner.dev/v1alpha1",
        "kind": "InferenceTopology",
        "metadata": {"name": "chat"},
        "spec": {
            "model": {"source": "/models/large"},
            "strategy": {"type": kind},
            "devicePools": [{"name": "pool", "replicas": 2}],
        }
        | spec,
    }
    return topology.parse(document)


def resolve(one: topology.InferenceTopology, **pool_facts: plan.ModelFacts) -> plan_whole.Resolved:
    return plan_whole.resolve(one, facts=FACTS, pool_facts=pool_facts, time_scale=2.0)


def test_both_tiers_of_a_handover() -> None:
    options = {"cloudTokens": {"max": 64}, "pacing": {"maxIntervalMilliseconds": 40}, "scheduler": "SkipJoinMLFQ"}
    one = wanted("PDDevice", cloud={"replicas": 2}, strategy={"type": "PDDevice", "pdDevice": options})
    resolved = resolve(one)
    prefills = plan_whole.prefill_configs(resolved, ports=[7001, 7002])
    assert [config.listen.port for config in prefills] == [7001, 7002]
    assert {config.scheduler for config in prefills} == {kinds.SchedulerType.SKIP_JOIN_MLFQ}
    assert {config.layers for config in prefills} == {32}
    devices = plan_whole.device_configs(resolved, cloud_endpoints=["a:1", "b:2"], ports=[8080, 8081])
    assert [config.listen.port for config in devices] == [8080, 8081]
    assert devices[0].cloud_endpoints == ("a:1", "b:2")
    assert devices[0].strategy.cloud_tokens.max == 64
    assert devices[0].strategy.pacing.max_interval_milliseconds == 80, "slowed with everything else"
    assert len({config.name for config in (*prefills, *devices)}) == 4


def test_a_pool_may_have_a_model_of_its_own() -> None:
    pools = [{"name": "own", "model": {"source": "/models/small"}}, {"name": "same"}]
    resolved = resolve(wanted("PDDevice", devicePools=pools), own=SMALL)
    own, same = plan_whole.device_configs(resolved, cloud_endpoints=["a:1"])
    assert (own.model.path, own.layers, own.model.dtype) == ("/models/small", 12, kinds.Dtype.FLOAT16)
    assert (same.model.path, same.layers, same.model.dtype) == ("/models/large", 32, kinds.Dtype.BFLOAT16)


def test_a_device_alone_has_no_cloud() -> None:
    resolved = resolve(wanted("DeviceOnly"))
    assert plan_whole.prefill_configs(resolved) == ()
    assert {config.cloud_endpoints for config in plan_whole.device_configs(resolved, cloud_endpoints=["a:1"])} == {()}


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [
        ("PDDevice", {"cloud": {"pipelineStages": 2}}, "spec.cloud.pipelineStages", "use 1"),
        ("CloudOnly", {"cloud": {"replicas": 0}}, "spec.cloud.replicas", "use 1 or more"),
        ("CloudOnly", {"devicePools": []}, "spec.devicePools", "at least one device"),
        (
            "PDDevice",
            {"cloud": {"engine": {"type": "External", "external": {"url": "http://a/v1"}}}},
            "spec.cloud.engine.type",
            "use Builtin",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_field(kind: str, spec: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(errors.SpecInvalid, match=words) as refused:
        resolve(wanted(kind, **spec))
    assert [problem.path for problem in refused.value.problems] == [field]


def test_split_strategies_are_planned_elsewhere() -> None:
    with pytest.raises(errors.SpecInvalid, match="splits the model"):
        resolve(wanted("UShape"))
