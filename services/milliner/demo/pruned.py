"""Takes some layers of an exported target as a network to train on: smaller than the whole."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import torch
from safetensors import torch as safetensors_torch

from milliner.demo import network


def load(folder: pathlib.Path, shape: network.Shape, layers: Sequence[int]) -> network.Network:
    """The network of the checkpoint that `export.write_model` wrote, of `shape`, with only `layers` of it, in order."""
    tensors = safetensors_torch.load_file(str(folder / "model.safetensors"))
    made = network.Network(dataclasses.replace(shape, num_hidden_layers=len(layers)))
    state = {"embedding.weight": tensors["model.embed_tokens.weight"], "norm": tensors["model.norm.weight"]}
    for index, layer in enumerate(layers):
        state |= {f"layers.{index}.{name}": tensor for name, tensor in _fused(tensors, f"model.layers.{layer}").items()}
    made.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return made


def _fused(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    def of(name: str) -> torch.Tensor:
        return tensors[f"{prefix}.{name}.weight"]

    return {
        "input_norm": of("input_layernorm"),
        "post_norm": of("post_attention_layernorm"),
        "qkv.weight": torch.cat([of(f"self_attn.{name}_proj") for name in "qkv"]),
        "output.weight": of("self_attn.o_proj"),
        "gate_up.weight": torch.cat([of("mlp.gate_proj"), of("mlp.up_proj")]),
        "down.weight": of("mlp.down_proj"),
    }
