"""What is wrong with a model folder is said by name: file, tensor, field; and only the slice's tensors are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tests.numerics import tiny_models

from milliner.core import errors
from milliner.model import checkpoint, digest
from milliner.model import slice as slices

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_models.save("llama", tmp_path / "model")
    return tmp_path / "model"


def load(path: Path, spec: slices.SliceSpec | None = None) -> slices.ModelSlice:
    opened = checkpoint.Checkpoint.open(path)
    spec = spec or slices.SliceSpec(0, 3, embedding=True, lm_head=True)
    return slices.load_slice(opened, spec, dtype=torch.float32, torch_device=CPU)


def edit_config(path: Path, **fields: Any) -> None:
    content = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**content, **fields}))


def edit_tensors(path: Path, replaced: Mapping[str, torch.Tensor] | None = None, *, drop: str = "") -> None:
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    tensors.update(replaced or {})
    tensors.pop(drop, None)
    safetensors.torch.save_file(tensors, path / "model.safetensors")


def test_no_folder_no_config_no_weights(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(errors.CheckpointError) as refused:
        checkpoint.Checkpoint.open(tmp_path / "absent")
    assert refused.value.field == str(tmp_path / "absent")
    with pytest.raises(errors.CheckpointError) as refused:
        checkpoint.Checkpoint.open(tmp_path)
    assert refused.value.field == "config.json"
    (folder / "model.safetensors").unlink()
    with pytest.raises(errors.CheckpointError) as refused:
        checkpoint.Checkpoint.open(folder)
    assert refused.value.field == "model.safetensors"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"model_type": "llama", "num_hidden_layers": "three"}'])
def test_broken_config(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(errors.CheckpointError) as refused:
        checkpoint.Checkpoint.open(folder)
    assert refused.value.field == "config.json"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"model_type": "no-such-model"}, "no-such-model"),
        ({"model_type": "bloom"}, "bloom"),  # ALiBi
        ({"model_type": "mamba2"}, "mamba2"),  # state space
        ({"model_type": "t5"}, "t5"),  # encoder-decoder
        ({"model_type": "diffllama"}, "diffllama"),  # differential attention
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
    ],
)
def test_unsupported_models_are_refused_by_name(folder: Path, fields: dict[str, Any], word: str) -> None:
    edit_config(folder, **fields)
    with pytest.raises(errors.UnsupportedModel, match=word) as refused:
        checkpoint.Checkpoint.open(folder)
    assert refused.value.field == "config.json"


def test_linear_attention_layers_are_refused(tmp_path: Path) -> None:
    tiny_models.save("qwen3", tmp_path)
    edit_config(tmp_path, layer_types=["full_attention", "linear_attention", "full_attention"])
    with pytest.raises(errors.UnsupportedModel, match="linear_attention"):
        checkpoint.Checkpoint.open(tmp_path)


@pytest.mark.parametrize("length", [0, 5, 200, 3000])
def test_damaged_weights_name_the_file(folder: Path, length: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(errors.CheckpointError) as refused:
        checkpoint.Checkpoint.open(folder)
    assert refused.value.field == "model.safetensors"


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_missing_tensor_is_named(folder: Path, name: str) -> None:
    edit_tensors(folder, drop=name)
    with pytest.raises(errors.CheckpointError) as refused:
        load(folder)
    assert refused.value.field == name


def test_wrong_shape_and_superfluous_tensor_are_named(folder: Path) -> None:
    name = "model.layers.2.self_attn.k_proj"
    edit_tensors(folder, {f"{name}.weight": torch.zeros(5, 5)})
    with pytest.raises(errors.CheckpointError, match=r"\[5, 5\]") as refused:
        load(folder)
    assert refused.value.field == f"{name}.weight"
    edit_tensors(folder, {f"{name}.weight": torch.zeros(16, 32), f"{name}.bias": torch.zeros(16)})
    with pytest.raises(errors.CheckpointError) as refused:
        load(folder)
    assert refused.value.field == f"{name}.bias"


def test_old_checkpoints_with_stored_frequencies_load(folder: Path) -> None:
    edit_tensors(folder, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    load(folder)


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 4), (3, 2)])
def test_bounds_outside_the_model(folder: Path, start: int, end: int) -> None:
    with pytest.raises(errors.SplitOutsideModel, match="has 3"):
        load(folder, slices.SliceSpec(start, end, embedding=False, lm_head=False))


def test_a_slice_needs_only_its_own_tensors(folder: Path) -> None:
    for name in checkpoint.Checkpoint.open(folder).tensor_names:
        if not name.startswith("model.layers.1."):
            edit_tensors(folder, drop=name)
    middle = load(folder, slices.SliceSpec(1, 2, embedding=False, lm_head=False))
    assert middle.kv_spec.first_layer == 1
    with pytest.raises(errors.CheckpointError):
        load(folder, slices.SliceSpec(1, 3, embedding=False, lm_head=False))


def test_shards_with_an_index(tmp_path: Path) -> None:
    tiny_models.save("qwen3_moe", tmp_path / "whole")
    tiny_models.save("qwen3_moe", tmp_path / "shards", max_shard_size="20KB")
    files = sorted(file.name for file in (tmp_path / "shards").glob("*.safetensors"))
    assert len(files) > 2
    tokens = tiny_models.prompt(9)
    expected, found = (
        tiny_models.open_session(tiny_models.load(tmp_path / name, 0, 3)).logits(tokens, 0)
        for name in ("whole", "shards")
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert digest.model_digest(tmp_path / "whole") == digest.model_digest(tmp_path / "shards")
    (tmp_path / "shards" / files[1]).unlink()
    with pytest.raises(errors.CheckpointError) as refused:
        checkpoint.Checkpoint.open(tmp_path / "shards")
    assert refused.value.field == files[1]


def test_index_that_points_to_the_wrong_shard(tmp_path: Path) -> None:
    tiny_models.save("llama", tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    name = next(name for name, file in index["weight_map"].items() if file == files[0])
    index["weight_map"][name] = files[1]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(errors.CheckpointError) as refused:
        load(tmp_path)
    assert refused.value.field == name


def test_text_model_inside_a_larger_one(tmp_path: Path) -> None:
    """Gemma 3 with vision stores its decoder under `model.language_model.`; its text part is sliced."""
    tiny_models.save("gemma3", tmp_path, tie_word_embeddings=True)
    tokens = tiny_models.prompt(20)
    expected = tiny_models.open_session(tiny_models.load(tmp_path, 0, 3)).logits(tokens, 0)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    renamed = {f"model.language_model.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    renamed["model.vision_tower.patch.weight"] = torch.zeros(2, 2)
    safetensors.torch.save_file(renamed, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    larger = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    (tmp_path / "config.json").write_text(json.dumps(larger))
    found = tiny_models.open_session(tiny_models.load(tmp_path, 0, 3)).logits(tokens, 0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_digest_follows_weights_and_architecture_only(folder: Path) -> None:
    before = digest.model_digest(folder)
    assert before.startswith("sha256:")
    edit_config(folder, transformers_version="0.0", dtype="bfloat16")
    assert digest.model_digest(folder) == before
    edit_config(folder, rms_norm_eps=1e-3)
    other_config = digest.model_digest(folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    assert len({before, other_config, digest.model_digest(folder)}) == 3
