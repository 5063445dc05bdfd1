"""Drafter folders: what is written comes back, and nothing loads beside another model."""

from __future__ import annotations

import pathlib

import pytest
import torch

from milliner.core import errors
from milliner.model import adapter as adapters
from milliner.model import drafter_file, medusa

DIGEST = "sha256:" + "a" * 64


def write_adapter(folder: pathlib.Path, *, dtype: str = "float32") -> adapters.Adapter:
    sizes = adapters.AdapterConfig(
        form=adapters.AdapterForm.LAYER_WITH_DEEP_STATE,
        hidden_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        rope_theta=5e5,
        rms_norm_eps=1e-6,
    )
    made = adapters.Adapter(sizes)
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind.ADAPTER,
        form=sizes.form.value,
        model_digest=DIGEST,
        split_layer=2,
        dtype=dtype,
        sizes=drafter_file.sizes_of(made),
    )
    drafter_file.save(folder, made, card)
    return made


def test_weights_and_sizes_come_back(tmp_path: pathlib.Path) -> None:
    made = write_adapter(tmp_path)
    loaded = drafter_file.load_adapter(tmp_path, model_digest=DIGEST, split_layer=2)
    assert loaded.config == made.config
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_medusa_heads_come_back_in_the_dtype_asked_for(tmp_path: pathlib.Path) -> None:
    heads = medusa.MedusaHeads(medusa.MedusaConfig(hidden_size=16, num_heads=3))
    card = drafter_file.Card(
        kind=drafter_file.DrafterKind.MEDUSA,
        form="medusa",
        model_digest=DIGEST,
        split_layer=2,
        dtype="bfloat16",
        sizes=drafter_file.sizes_of(heads),
    )
    drafter_file.save(tmp_path, heads, card)
    loaded = drafter_file.load_medusa(tmp_path, model_digest=DIGEST, dtype=torch.float16)
    assert loaded.config.num_heads == 3
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float16}


def test_another_model_is_refused(tmp_path: pathlib.Path) -> None:
    write_adapter(tmp_path)
    other = "sha256:" + "b" * 64
    with pytest.raises(
        errors.DrafterMismatch, match=f"{DIGEST} and the model here is {other}.*train-adapter"
    ) as caught:
        drafter_file.load_adapter(tmp_path, model_digest=other, split_layer=2)
    assert caught.value.field == "model_digest"


def test_another_split_is_refused(tmp_path: pathlib.Path) -> None:
    write_adapter(tmp_path)
    with pytest.raises(errors.DrafterMismatch, match=r"split layer 2 and the topology splits at 3") as caught:
        drafter_file.load_adapter(tmp_path, model_digest=DIGEST, split_layer=3)
    assert caught.value.field == "split_layer"


def test_another_kind_is_refused(tmp_path: pathlib.Path) -> None:
    write_adapter(tmp_path)
    with pytest.raises(errors.DrafterMismatch, match=r"'adapter' and 'medusa' is needed") as caught:
        drafter_file.load_medusa(tmp_path, model_digest=DIGEST)
    assert caught.value.field == "kind"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter.json", None, "cannot be read"),
        ("adapter.json", b"{}", "Field required"),
        ("adapter.safetensors", None, "missing or damaged"),
        ("adapter.safetensors", b"\x00" * 64, "missing or damaged"),
    ],
)
def test_damaged_folders_name_the_file(tmp_path: pathlib.Path, file: str, content: bytes | None, message: str) -> None:
    write_adapter(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(errors.ConfigError, match=message) as caught:
        drafter_file.load_adapter(tmp_path, model_digest=DIGEST)
    assert caught.value.field == str(tmp_path / file)
