"""From topologies to processes: names, ports, endpoints, threads, the built-in demo."""

from __future__ import annotations

import json
import pathlib
import socket

import pytest

from milliner.contract import documents, role_config
from milliner.contract import errors as contract_errors
from milliner.core import errors
from milliner.demo import assets
from milliner.local import demonstration, launches

TOPOLOGY = """\
apiVersion: milliner.dev/v1alpha1
kind: InferenceTopology
metadata: {name: NAME}
spec:
  model: {source: model, servedName: served}
  strategy: {type: UShape}
  cloud: {replicas: 2}
  devicePools:
    - {name: a, replicas: 2, api: {port: PORT}}
    - {name: b, replicas: 1, api: {port: PORT}}
"""


def free_pair() -> int:
    """A port that is free together with the next one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"num_hidden_layers": 6, "dtype": "bfloat16"}))
    path = tmp_path / "t.yaml"
    path.write_text(TOPOLOGY.replace("NAME", "one").replace("PORT", str(free_pair())))
    return path


@pytest.fixture
def demo_files(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of the demo's files before its processes start, without the files."""
    (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 8, "dtype": "bfloat16"}))
    (tmp_path / "adapter.json").write_text(json.dumps({"split_layer": 2}))
    monkeypatch.setattr(assets, "model_dir", lambda: tmp_path)
    monkeypatch.setattr(assets, "adapter_dir", lambda: tmp_path)


def test_pools_times_replicas_get_names_ports_and_all_endpoints(file: pathlib.Path) -> None:
    (launch,) = launches.plan_file(file)
    assert [role.name for role in launch.roles] == ["cloud-0", "cloud-1", "a-0", "a-1", "b-0"]
    wanted = documents.load_topologies(str(file))[0].spec.device_pools[0].api.port
    ports = [role.config.listen.port for role in launch.devices]
    assert ports[:2] == [wanted, wanted + 1]
    assert len({role.address for role in launch.roles}) == 5
    for device in launch.devices:
        assert isinstance(device.config, role_config.DeviceRoleConfig)
        assert device.config.cloud_endpoints == tuple(cloud.address for cloud in launch.clouds)
    assert launch.model == "served"
    assert launch.devices[0].config.model.dtype.value == "BFloat16"
    assert all((role.config.torch_threads or 0) >= 1 for role in launch.roles)


def test_a_device_that_listens_elsewhere_than_declared_is_noted(file: pathlib.Path) -> None:
    wanted = documents.load_topologies(str(file))[0].spec.device_pools[0].api.port
    with socket.create_server(("127.0.0.1", wanted)):
        (launch,) = launches.plan_file(file)
    (told,) = (note for note in launch.notes if "a-0" in note)
    assert told == f"port {wanted} is taken, so a-0 listens on {launch.devices[0].config.listen.port}"
    (unasked,) = launches.plan_file(file, wishes=launches.PortWishes(as_declared=False))
    assert not any("listens on" in note for note in unasked.notes)


def test_a_taken_port_is_avoided_unless_it_was_asked_for(file: pathlib.Path) -> None:
    wanted = documents.load_topologies(str(file))[0].spec.device_pools[0].api.port
    with socket.create_server(("127.0.0.1", wanted)):
        (launch,) = launches.plan_file(file)
        assert launch.devices[0].config.listen.port != wanted
        with pytest.raises(errors.ConfigError, match=f"--device-port: port {wanted}"):
            launches.plan_file(file, wishes=launches.PortWishes(first=wanted))
    (launch,) = launches.plan_file(file, wishes=launches.PortWishes(first=wanted + 1))
    assert launch.devices[0].config.listen.port == wanted + 1


def test_several_topologies_share_no_name_and_no_port(file: pathlib.Path) -> None:
    text = file.read_text()
    file.write_text(text + "---\n" + text.replace("name: one", "name: two"))
    planned = launches.plan_file(file)
    roles = [role for launch in planned for role in launch.roles]
    assert len({role.name for role in roles}) == len({role.address for role in roles}) == 10
    assert [launch.name for launch in launches.plan_file(file, name="two")] == ["two"]


@pytest.mark.usefixtures("demo_files")
def test_time_scale_slows_what_is_emulated() -> None:
    (normal,), (slow,) = launches.plan_file(None), launches.plan_file(None, time_scale=4.0)

    def emulated(launch: launches.TopologyLaunch) -> tuple[int, int, int]:
        cloud, device = launch.clouds[0].config.emulation, launch.devices[0].config.emulation
        link, layers = device.link, cloud.compute.layers  # type: ignore[union-attr]
        return link.uplink_kilobits_per_second, link.round_trip_milliseconds, layers.fixed_microseconds  # type: ignore[union-attr]

    (uplink, round_trip, layers), slowed = emulated(normal), emulated(slow)
    assert slowed == (uplink / 4, round_trip * 4, layers * 4)


def test_the_built_in_demo_is_the_sample() -> None:
    sample = pathlib.Path(__file__).parents[4] / "manifests" / "samples" / "hat.yaml"
    assert launches.demo_topologies() == documents.load_topologies(str(sample))


@pytest.mark.usefixtures("demo_files")
def test_the_demonstration_compares_strategies_over_one_cloud_and_equal_links() -> None:
    launch = demonstration.plan(demonstration.variants())
    assert [device.name for device in launch.devices] == ["ushape", "hat"]
    first, second = (device.config for device in launch.devices)
    assert isinstance(first, role_config.DeviceRoleConfig)
    assert isinstance(second, role_config.DeviceRoleConfig)
    assert first.cloud_endpoints == second.cloud_endpoints == (launch.clouds[0].address,)
    assert first.emulation == second.emulation
    assert first.split == second.split
    assert (first.strategy.prompt_codec, first.strategy.decode_codec) == (
        second.strategy.prompt_codec,
        second.strategy.decode_codec,
    )
    assert first.listen.port != second.listen.port


@pytest.mark.parametrize(
    ("name", "roles"),
    [("cloud-only", ["prefill", "whole-device"]), ("device-only", ["whole-device"])],
)
def test_samples_of_one_tier_run_on_one_machine_too(name: str, roles: list[str]) -> None:
    sample = pathlib.Path(__file__).parents[4] / "manifests" / "samples" / f"{name}.yaml"
    (launch,) = launches.plan_file(sample, wishes=launches.PortWishes(as_declared=False))
    assert [each.config.role for each in launch.roles] == roles
    assert not [note for note in launch.notes if "exposure" in note], "of a field that nobody has set"


def test_a_handover_is_planned_with_its_ports(tmp_path: pathlib.Path) -> None:
    sample = pathlib.Path(__file__).parents[4] / "manifests" / "samples" / "pd-device.yaml"
    (launch,) = launches.plan_file(sample, wishes=launches.PortWishes(as_declared=False))
    (cloud,), (device,) = launch.clouds, launch.devices
    assert (cloud.config.role, device.config.role) == ("prefill", "whole-device")
    assert isinstance(device.config, role_config.WholeDeviceRoleConfig)
    assert device.config.cloud_endpoints == (cloud.address,)
    moved = launches.moved(launch, cloud.name)
    (other,) = moved.devices
    assert isinstance(other.config, role_config.WholeDeviceRoleConfig)
    assert other.config.cloud_endpoints == (moved.clouds[0].address,) != device.config.cloud_endpoints


def test_an_external_engine_is_asked_with_the_key_beside_the_topology(tmp_path: pathlib.Path) -> None:
    sample = pathlib.Path(__file__).parents[4] / "manifests" / "samples" / "pd-device-external.yaml"
    wishes = launches.PortWishes(as_declared=False)
    (launch,) = launches.plan_file(sample, wishes=wishes)
    assert launch.clouds == ()
    assert [note for note in launch.notes if "cloud" in note] == []
    with_key = tmp_path / "t.yaml"
    with_key.write_text(sample.read_text().replace("# apiKeySecretRef", "apiKeySecretRef"))
    with pytest.raises(contract_errors.SpecInvalid, match=r"Secret vllm has no key token here") as refused:
        launches.plan_file(with_key, wishes=wishes)
    assert [problem.path for problem in refused.value.problems] == ["spec.cloud.engine.external.apiKeySecretRef"]
    key = tmp_path / "secrets" / "vllm" / "token"
    key.parent.mkdir(parents=True)
    key.write_text("k")
    (launch,) = launches.plan_file(with_key, wishes=wishes)
    (device,) = launch.devices
    assert isinstance(device.config, role_config.WholeDeviceRoleConfig)
    assert device.config.external == role_config.ExternalServer(
        url="http://127.0.0.1:8000/v1", model="demo", api_key_file=str(key)
    )
    assert device.config.cloud_endpoints == ()


def test_what_an_external_engine_decides_for_itself_is_told(tmp_path: pathlib.Path) -> None:
    sample = pathlib.Path(__file__).parents[4] / "manifests" / "samples" / "pd-device-external.yaml"
    text = sample.read_text()
    text = text.replace("      type: External\n", "      type: External\n      maxSessions: 3\n")
    text = text.replace(
        "    pdDevice:\n", "    pdDevice:\n      scheduler: SkipJoinMLFQ\n      refinement: {mode: Auto}\n"
    )
    text = text.replace("    engine:\n", "    emulation: {compute: {layers: {fixedMicroseconds: 1}}}\n    engine:\n")
    (tmp_path / "t.yaml").write_text(text)
    (launch,) = launches.plan_file(tmp_path / "t.yaml", wishes=launches.PortWishes(as_declared=False))
    told = {note.split(" ", 1)[0] for note in launch.notes}
    assert told >= {
        "strategy.pdDevice.refinement",
        "strategy.pdDevice.scheduler",
        "cloud.engine",
        "cloud.emulation",
    }
