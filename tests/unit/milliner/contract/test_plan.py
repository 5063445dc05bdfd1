"""From topology to role configurations: defaults, replicas, time scale, and what is refused once the model is known."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
from tests.unit.milliner.contract import documents_of

from milliner.contract import availability, base, errors, kinds, model_checks, plan, role_config, topology

FACTS = plan.ModelFacts(
    model_path="/models/demo", num_layers=8, dtype=kinds.Dtype.BFLOAT16, drafter_path="/models/adapter", drafter_split=3
)
BARE = plan.ModelFacts(model_path="/models/demo", num_layers=36, dtype=kinds.Dtype.BFLOAT16)


def resolved(changes: dict[str, Any], *, facts: plan.ModelFacts = FACTS, time_scale: float = 1.0) -> plan.Resolved:
    return plan.resolve(topology.parse(documents_of.changed(changes)), facts=facts, time_scale=time_scale)


def refusal(changes: dict[str, Any], *, facts: plan.ModelFacts = FACTS) -> str:
    with pytest.raises(errors.SpecInvalid) as caught:
        resolved(changes, facts=facts)
    return str(caught.value)


def test_split_and_codecs_come_from_adapter_and_checkpoint() -> None:
    found = resolved({})
    assert found.split == role_config.Split(layers=8, split_layer=3, tail_layers=0)
    assert found.split.cloud_bounds == role_config.SliceBounds(start=3, end=8)
    assert found.strategy.prompt_codec is kinds.Codec.BFLOAT16
    assert found.strategy.decode_codec is kinds.Codec.BFLOAT16
    assert found.strategy.adapter_path == "/models/adapter"


def test_heads_make_u_shape_a_medusa() -> None:
    found = resolved({"spec.strategy.type": "UShape"})
    assert found.strategy.heads_path == "/models/adapter"
    assert found.strategy.adapter_path is None
    assert found.strategy.drafting.control is kinds.DraftControl.OFF


@pytest.mark.parametrize(("layers", "split"), [(2, 1), (3, 2), (32, 2), (39, 2), (40, 3)])
def test_default_split_without_a_drafter(layers: int, split: int) -> None:
    assert model_checks.default_split_layer(layers) == split


def test_one_configuration_per_replica_with_its_own_name_and_port() -> None:
    found = resolved({"spec.cloud.replicas": 2, "spec.devicePools": [{"name": "a", "replicas": 2}, {"name": "b"}]})
    clouds = plan.cloud_configs(found, ports=[5001, 5002])
    assert [(each.name, each.listen.port) for each in clouds] == [("chat-cloud-0", 5001), ("chat-cloud-1", 5002)]
    places = plan.device_places(found.topology)
    assert [(each.pool, each.index, each.wanted_port) for each in places] == [
        ("a", 0, 8080),
        ("a", 1, 8081),
        ("b", 0, 8080),
    ]
    devices = plan.device_configs(found, cloud_endpoints=["h:1", "h:2"])
    assert [each.name for each in devices] == ["chat-device-a-0", "chat-device-a-1", "chat-device-b-0"]
    assert all(each.cloud_endpoints == ("h:1", "h:2") for each in devices)


def test_time_scale_slows_link_and_compute_alike() -> None:
    changes = {
        "spec.cloud.emulation": {"compute": {"layers": {"fixedMicroseconds": 100, "perTokenMicroseconds": 3}}},
        "spec.devicePools.0.emulation": {
            "link": {"uplinkKilobitsPerSecond": 5000, "roundTripMilliseconds": 20},
            "compute": {"shallow": {"fixedMicroseconds": 10}, "perBranchMicroseconds": 7},
        },
    }
    found = resolved(changes, time_scale=2.0)
    cloud = plan.cloud_configs(found)[0].emulation
    device = plan.device_configs(found, cloud_endpoints=["h:1"])[0].emulation
    assert cloud is not None
    assert cloud.compute is not None
    assert cloud.compute.layers is not None
    assert cloud.compute.layers.duration_s(10) == pytest.approx(260e-6)
    assert device is not None
    assert device.link is not None
    assert device.link.uplink_bytes_per_s == 312_500
    assert device.link.round_trip_s == 0.04
    assert device.compute is not None
    assert device.compute.per_branch_microseconds == 14
    assert device.compute.adapter is None


@pytest.mark.parametrize("factor", [0.0, -1.0, 1e6])
def test_time_scale_out_of_range_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="time scale"):
        resolved({}, time_scale=factor)


@pytest.mark.parametrize(
    ("changes", "facts", "message"),
    [
        (
            {"spec.strategy.hat": {"splitLayer": 40, "drafting": {"control": "Disabled"}}},
            BARE,
            "strategy.hat.splitLayer is 40, the model has 36 layers: use 1 to 35",
        ),
        (
            {"spec.strategy": {"type": "UShape", "uShape": {"splitLayer": 30, "tailLayers": 6}}},
            BARE,
            "strategy.uShape.tailLayers is 6, the model has 36 layers and splitLayer is 30: use 0 to 5, so that a "
            "layer remains for the cloud",
        ),
        (
            {"spec.strategy.hat": {"splitLayer": 2}},
            FACTS,
            "strategy.hat.adapter was trained for a split at 3, strategy.hat.splitLayer is 2: set splitLayer: 3, or "
            "train one with milliner train-adapter --split-layer 2",
        ),
        ({}, BARE, "strategy.hat.adapter is needed"),
        ({"spec.strategy.type": "PDDevice"}, FACTS, "strategy.type PDDevice runs whole models"),
        (
            {"spec.cloud.pipelineStages": 6},
            FACTS,
            "cloud.pipelineStages is 6, the cloud has 5 of the model's layers: use 1 to 5",
        ),
        ({"spec.cloud.replicas": 0}, FACTS, "cloud.replicas is 0"),
        ({"spec.devicePools.0.replicas": 0}, FACTS, "devicePools have 0 replicas in all"),
        ({"spec.fallback": {"onCloudLoss": "DraftOnly"}}, FACTS, "DraftOnly is not available in this version: use"),
    ],
)
def test_refused_against_the_model(changes: dict[str, Any], facts: plan.ModelFacts, message: str) -> None:
    assert message in refusal(changes, facts=facts)


def test_a_cloud_may_rest_where_it_can_be_scaled_up_again() -> None:
    wanted = topology.parse(documents_of.changed({"spec.cloud.replicas": 0}))
    assert plan.resolve(wanted, facts=FACTS, may_rest=True).split.layers == FACTS.num_layers


def test_a_pinned_digest_must_match() -> None:
    pinned, found = "sha256:" + "0" * 64, "sha256:" + "1" * 64
    assert model_checks.check_digest(pinned=None, found=found) == []
    assert model_checks.check_digest(pinned=found, found=found) == []
    assert found in str(model_checks.check_digest(pinned=pinned, found=found)[0])


def test_notes_name_what_has_no_effect_without_a_cluster() -> None:
    wanted = topology.parse(
        documents_of.changed(
            {"spec.tracing": {"otlpEndpoint": "http://c:4317"}, "spec.devicePools.0.nodeSelector": {"a": "b"}}
        )
    )
    told = availability.notes(wanted)
    assert [note.split()[0] for note in told] == ["devicePools[].nodeSelector", "tracing"]
    assert availability.notes(topology.parse(documents_of.SMALLEST)) == []


def test_role_configurations_survive_their_file(tmp_path: pathlib.Path) -> None:
    found = resolved({"spec.devicePools.0.emulation": {"link": {}, "compute": {"head": {}}}})
    configs: list[role_config.CloudRoleConfig | role_config.DeviceRoleConfig] = [
        *plan.cloud_configs(found),
        *plan.device_configs(found, cloud_endpoints=["h:1"]),
    ]
    for config in configs:
        file = tmp_path / f"{config.role}.json"
        file.write_text(config.to_json())
        assert role_config.load(file) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "role: found None, use one of cloud, device, prefill, whole-device"),
        ('{"role": "cloud", "nmae": "x"}', "nmae: unknown field, did you mean name?"),
    ],
)
def test_broken_role_configuration(tmp_path: pathlib.Path, text: str, message: str) -> None:
    file = tmp_path / "role.json"
    file.write_text(text)
    with pytest.raises(errors.ContractError) as caught:
        role_config.load(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_role_configuration_in_python_takes_snake_case_names() -> None:
    config = base.parse(role_config.Listen, {"host": "0.0.0.0", "port": 0})
    assert config == role_config.Listen(host="0.0.0.0", port=0)
