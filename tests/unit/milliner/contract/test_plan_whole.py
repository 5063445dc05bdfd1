"""From topologies of whole models to configurations of roles."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from milliner.contract import errors, kinds, plan, plan_whole, role_config, strategy, topology

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


def test_what_the_device_aims_at_is_slowed_with_everything_else() -> None:
    options = {"refinement": {"mode": "Auto", "minKeepPercent": 40}}
    aims = {"timeToFirstTokenMilliseconds": 900, "timePerOutputTokenMilliseconds": 30}
    resolved = resolve(wanted("PDDevice", strategy={"type": "PDDevice", "pdDevice": options}, objectives=aims))
    device, _ = plan_whole.device_configs(resolved, cloud_endpoints=["a:1"])
    assert device.objectives.time_to_first_token_milliseconds == 1800
    assert device.objectives.time_per_output_token_milliseconds == 60
    assert device.strategy.refinement == strategy.Refinement(mode=kinds.RefinementMode.AUTO, min_keep_percent=40)


def test_a_prompt_stays_whole_unless_asked_otherwise() -> None:
    device, _ = plan_whole.device_configs(resolve(wanted("PDDevice")), cloud_endpoints=["a:1"])
    assert device.strategy.refinement.mode is kinds.RefinementMode.OFF


def test_a_pool_may_have_a_model_of_its_own() -> None:
    pools = [{"name": "own", "model": {"source": "/models/small", "servedName": "small"}}, {"name": "same"}]
    resolved = resolve(wanted("PDDevice", devicePools=pools), own=SMALL)
    own, same = plan_whole.device_configs(resolved, cloud_endpoints=["a:1"])
    assert (own.model.served_name, same.model.served_name) == ("small", "chat")
    assert (own.model.path, own.layers, own.model.dtype) == ("/models/small", 12, kinds.Dtype.FLOAT16)
    assert (same.model.path, same.layers, same.model.dtype) == ("/models/large", 32, kinds.Dtype.BFLOAT16)


def test_tiers_that_exchange_token_ids_have_one_tokenizer() -> None:
    pools = [{"name": "same"}, {"name": "own", "model": {"source": "/models/small"}}]
    large = dataclasses.replace(FACTS, tokenizer_digest="sha256:" + "a" * 64)
    small = dataclasses.replace(SMALL, tokenizer_digest="sha256:" + "b" * 64)
    with pytest.raises(errors.SpecInvalid) as refused:
        plan_whole.resolve(wanted("PDDevice", devicePools=pools), facts=large, pool_facts={"own": small})
    (problem,) = refused.value.problems
    assert problem.path == "spec.devicePools[1].model.source"
    assert "sha256:aaa" in problem.message and "sha256:bbb" in problem.message and "pool own" in problem.message
    plan_whole.resolve(wanted("DeviceOnly", devicePools=pools), facts=large, pool_facts={"own": small})
    alike = dataclasses.replace(small, tokenizer_digest=large.tokenizer_digest)
    plan_whole.resolve(wanted("PDDevice", devicePools=pools), facts=large, pool_facts={"own": alike})


def test_a_cloud_that_does_everything_and_has_no_devices_gets_a_gateway() -> None:
    one = wanted("CloudOnly", devicePools=[])
    (device,) = plan_whole.device_configs(resolve(one), cloud_endpoints=["a:1"])
    assert (device.pool, device.strategy.type) == ("gateway", kinds.StrategyType.CLOUD_ONLY)
    assert topology.parse(one.document()) == one


def test_a_cloud_that_rests_is_planned_where_it_can_be_scaled_up() -> None:
    one = wanted("PDDevice", cloud={"replicas": 0})
    assert plan_whole.prefill_configs(plan_whole.resolve(one, facts=FACTS, pool_facts={}, may_rest=True)) == ()


def test_a_device_alone_has_no_cloud() -> None:
    resolved = resolve(wanted("DeviceOnly"))
    assert plan_whole.prefill_configs(resolved) == ()
    assert {config.cloud_endpoints for config in plan_whole.device_configs(resolved, cloud_endpoints=["a:1"])} == {()}


@pytest.mark.parametrize("kind", ["PDDevice", "CloudOnly"])
def test_an_external_engine_takes_the_place_of_cloud_replicas(kind: str) -> None:
    external = {"url": "http://vllm:8000/v1", "model": "m", "apiKeySecretRef": {"name": "vllm", "key": "token"}}
    one = wanted(kind, cloud={"engine": {"type": "External", "external": external}})
    resolved = resolve(one)
    assert plan_whole.prefill_configs(resolved) == ()
    for device in plan_whole.device_configs(resolved, cloud_endpoints=[], api_key_file="/keys/token"):
        assert device.cloud_endpoints == ()
        assert device.external == role_config.ExternalServer(
            url="http://vllm:8000/v1", model="m", api_key_file="/keys/token"
        )


def test_no_key_is_sent_where_none_is_asked_for() -> None:
    one = wanted("PDDevice", cloud={"engine": {"type": "External", "external": {"url": "http://vllm:8000/v1"}}})
    (device, _) = plan_whole.device_configs(resolve(one), cloud_endpoints=[], api_key_file="/keys/token")
    assert device.external == role_config.ExternalServer(url="http://vllm:8000/v1")


@pytest.mark.parametrize(
    ("kind", "spec", "field", "words"),
    [
        ("CloudOnly", {"cloud": {"replicas": 0}}, "spec.cloud.replicas", "use 1 or more"),
        ("CloudOnly", {"devicePools": [{"name": "p", "replicas": 0}]}, "spec.devicePools", "at least one device"),
    ],
)
def test_what_cannot_run_is_refused_by_field(kind: str, spec: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(errors.SpecInvalid, match=words) as refused:
        resolve(wanted(kind, **spec))
    assert [problem.path for problem in refused.value.problems] == [field]


def test_split_strategies_are_planned_elsewhere() -> None:
    with pytest.raises(errors.SpecInvalid, match="splits the model"):
        resolve(wanted("UShape"))


@pytest.mark.parametrize(("scheduler", "swap_bytes"), [("SkipJoinMLFQ", 4 << 30), ("FirstComeFirstServed", 0)])
def test_only_who_preempts_gets_host_memory_for_it(scheduler: str, swap_bytes: int) -> None:
    options = {"type": "PDDevice", "pdDevice": {"scheduler": scheduler}}
    found = resolve(wanted("PDDevice", cloud={"accelerator": {}}, strategy=options))
    assert plan_whole.prefill_config(found, name="cloud", port=0).engine.kv_swap_bytes == swap_bytes
