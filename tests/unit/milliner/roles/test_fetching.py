"""A role's files are here before it starts: slices and drafters fetched, what ships taken in place."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import pytest
import torch
from tests.unit.milliner.model.sources import file_server

from milliner.api import tokenizer
from milliner.contract import facts, kinds, role_config, strategy
from milliner.core import errors
from milliner.demo import assets
from milliner.engine.device import device_model
from milliner.model import checkpoint, tokenizer_digest
from milliner.model import slice as slices
from milliner.model.sources import opening, retries
from milliner.roles import fetching, inspecting, places

AT = dataclasses.replace(places.from_environment({}), retry=retries.RetryPolicy(sleep=lambda seconds: None))


def model_files(source: str | None, cache: pathlib.Path, **more: Any) -> role_config.ModelFiles:
    return role_config.ModelFiles(
        path=str(cache / "model"),
        served_name="chat",
        dtype=kinds.Dtype.FLOAT32,
        source=source,
        cache_dir=str(cache),
        **more,
    )


def inspected(source: str, drafter: str | None = None) -> facts.InspectedFacts:
    question = facts.InspectConfig(
        topology="chat",
        key="k",
        strategy=kinds.StrategyType.HAT,
        model=model_files(source, pathlib.Path("/nowhere")),
        drafter_source=drafter,
    )
    return inspecting.inspect(question, AT)


def device_config(model: role_config.ModelFiles, cache: pathlib.Path, **more: Any) -> role_config.DeviceRoleConfig:
    return role_config.DeviceRoleConfig(
        topology="chat",
        name="chat-device-local-0",
        pool="local",
        model=model,
        split=role_config.Split(layers=8, split_layer=2),
        strategy=role_config.DeviceStrategy(
            type=kinds.StrategyType.HAT,
            adapter_path=str(cache / "drafter"),
            drafting=strategy.Drafting(),
            chunking=strategy.Chunking(),
            prompt_codec=kinds.Codec.FLOAT32,
            decode_codec=kinds.Codec.FLOAT32,
            **more,
        ),
        cloud_endpoints=("127.0.0.1:1",),
    )


def load_submodels(config: fetching.RoleConfig) -> Any:
    assert isinstance(config, role_config.DeviceRoleConfig)
    assert config.strategy.adapter_path is not None
    files = device_model.DeviceFiles(
        model=pathlib.Path(config.model.path),
        split_layer=config.split.split_layer,
        adapter=pathlib.Path(config.strategy.adapter_path),
    )
    return device_model.load_submodels(files, dtype=torch.float32, torch_device=torch.device("cpu"))


def test_device_and_cloud_fetch_what_they_run(tmp_path: pathlib.Path) -> None:
    device_cache, cloud_cache = tmp_path / "device", tmp_path / "cloud"
    with (
        file_server.FileServer(assets.model_dir()).running() as server,
        file_server.FileServer(assets.adapter_dir()).running() as drafters,
    ):
        found = inspected(server.url, drafters.url)
        assert found.error is None
        known = {"digest": found.digest, "fingerprint": found.fingerprint}
        wanted = device_config(
            model_files(server.url, device_cache, **known), device_cache, adapter_source=drafters.url
        )
        device = fetching.with_local_files(wanted, AT)
        cloud_config = role_config.CloudRoleConfig(
            topology="chat",
            name="chat-cloud-0",
            model=model_files(server.url, cloud_cache, **known),
            slice=role_config.SliceBounds(start=2, end=8),
        )
        cloud = fetching.with_local_files(cloud_config, AT)
    again = fetching.with_local_files(wanted, AT)  # the servers are gone: a restart needs neither
    assert again == device
    submodels = load_submodels(device)
    assert submodels.info.model_digest == found.digest
    assert submodels.info.drafts
    opened = checkpoint.Checkpoint.open(pathlib.Path(cloud.model.path))
    spec = slices.SliceSpec(2, 8, embedding=False, lm_head=False)
    slices.load_slice(opened, spec, dtype=torch.float32, torch_device=torch.device("cpu"))
    stored = sum(file.stat().st_size for file in device_cache.rglob("*.safetensors"))
    assert stored < 0.75 * sum(file.stat().st_size for file in [*assets.model_dir().glob("*.safetensors")] * 2)


def whole_device_config(kind: kinds.StrategyType, model: role_config.ModelFiles) -> role_config.WholeDeviceRoleConfig:
    return role_config.WholeDeviceRoleConfig(
        topology="chat",
        name="chat-device-local-0",
        pool="local",
        model=model,
        layers=8,
        strategy=role_config.WholeStrategy(type=kind),
        cloud_endpoints=("127.0.0.1:1",),
    )


def test_a_device_that_runs_no_layer_fetches_no_weights(tmp_path: pathlib.Path) -> None:
    weights_bytes = (assets.model_dir() / "model.safetensors").stat().st_size
    with file_server.FileServer(assets.model_dir()).running() as server:
        found = inspected(server.url)
        known = {"digest": found.digest, "fingerprint": found.fingerprint}
        server.sent_bytes.clear()
        config = whole_device_config(kinds.StrategyType.CLOUD_ONLY, model_files(server.url, tmp_path, **known))
        fetched = fetching.with_local_files(config, AT)
        headers_bytes = server.sent_bytes["model.safetensors"]
        server.sent_bytes.clear()
        whole = whole_device_config(
            kinds.StrategyType.DEVICE_ONLY, model_files(server.url, tmp_path / "whole", **known)
        )
        fetching.with_local_files(whole, AT)
        assert server.sent_bytes["model.safetensors"] >= 0.99 * weights_bytes
    assert headers_bytes < 0.01 * weights_bytes
    assert fetching.with_local_files(config, AT) == fetched  # the server is gone: a restart does not need it
    folder = pathlib.Path(fetched.model.path)
    assert not list(folder.glob("*.safetensors"))
    assert tokenizer.HuggingFaceTokenizer.load(folder).encode("hat") != []
    assert tokenizer_digest.tokenizer_digest(folder) == tokenizer_digest.tokenizer_digest(assets.model_dir())
    known_layers = checkpoint.Checkpoint.described(folder, lambda _: {}).num_layers
    assert known_layers == checkpoint.Checkpoint.open(assets.model_dir()).num_layers


def test_a_tokenizer_of_other_files_than_were_inspected_is_refused(tmp_path: pathlib.Path) -> None:
    with file_server.FileServer(assets.model_dir()).running() as server:
        known = {"digest": "sha256:" + "0" * 64, "fingerprint": "sha256:" + "0" * 64}
        config = whole_device_config(kinds.StrategyType.CLOUD_ONLY, model_files(server.url, tmp_path, **known))
        with pytest.raises(errors.SourceError, match="are no longer those"):
            fetching.with_local_files(config, AT)


def test_what_ships_with_the_package_is_taken_in_place(tmp_path: pathlib.Path) -> None:
    wanted = device_config(model_files("builtin://demo", tmp_path), tmp_path, adapter_source="builtin://demo")
    found = fetching.with_local_files(wanted, AT)
    assert found.model.path == str(assets.model_dir())
    assert load_submodels(found).info.drafts
    assert not list(tmp_path.iterdir())


def test_a_claim_is_where_it_is_mounted(tmp_path: pathlib.Path) -> None:
    (tmp_path / "claims" / "models" / "demo").mkdir(parents=True)
    at = opening.Places(claims=tmp_path / "claims")
    wanted = device_config(model_files("pvc://models/demo", tmp_path), tmp_path)
    assert fetching.with_local_files(wanted, at).model.path == str(tmp_path / "claims" / "models" / "demo")
    outside = device_config(model_files("pvc://models/../../etc", tmp_path), tmp_path)
    with pytest.raises(errors.SourceError, match="no folder of the claim"):
        fetching.with_local_files(outside, at)


def test_without_a_source_nothing_changes(tmp_path: pathlib.Path) -> None:
    wanted = device_config(model_files(None, tmp_path), tmp_path)
    assert fetching.with_local_files(wanted, AT) == wanted


@pytest.mark.parametrize("missing", ["digest", "fingerprint"])
def test_a_part_is_not_trusted_without_what_an_inspection_found(tmp_path: pathlib.Path, missing: str) -> None:
    known = {"digest": "sha256:" + "0" * 64, "fingerprint": "f"}
    del known[missing]
    wanted = device_config(model_files("https://host/model", tmp_path, **known), tmp_path)
    with pytest.raises(errors.ConfigError, match="is needed where the model is fetched") as raised:
        fetching.with_local_files(wanted, AT)
    assert raised.value.field == f"model.{missing}"


def test_an_unreadable_token_is_named(tmp_path: pathlib.Path) -> None:
    known = {"digest": "sha256:" + "0" * 64, "fingerprint": "f", "credentials_file": str(tmp_path / "token")}
    wanted = device_config(model_files("https://host/model", tmp_path, **known), tmp_path)
    with pytest.raises(errors.ConfigError, match=r"model\.credentialsSecretRef"):
        fetching.with_local_files(wanted, AT)


def test_a_drafter_that_is_cut_short_is_refused(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter.json").write_bytes((assets.adapter_dir() / "adapter.json").read_bytes())
    (folder / "adapter.safetensors").write_bytes((assets.adapter_dir() / "adapter.safetensors").read_bytes()[:1000])
    with file_server.FileServer(folder).running() as server:
        wanted = device_config(model_files("builtin://demo", tmp_path), tmp_path, adapter_source=server.url)
        with pytest.raises(errors.SourceError) as raised:
            fetching.with_local_files(wanted, AT)
    assert raised.value.field == "strategy.hat.adapter.source"
