"""Decoder layers [start, end) of a family, run over ragged batches. Used by slices and by adapters.

The layers are `transformers`' own classes, made on torch's meta device (no memory) until their tensors are assigned.
This module gives them what their model class would: rotary embeddings per layer type and the attention function.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from milliner.core import errors
from milliner.model import attention, families, kv_cache, ragged


class Scaffold:
    """A family's own modules around its layers, on the meta device: classes to build from, and small modules to keep.

    `embed_tokens`, `norm`, `lm_head` are unfilled modules; `config` is a copy that selects ragged attention.
    """

    def __init__(self, config: transformers.PretrainedConfig) -> None:
        families.check(config)
        attention.register()
        self.config = copy.deepcopy(config)
        single = copy.deepcopy(config)
        single.num_hidden_layers = 1
        if getattr(single, "layer_types", None):
            single.layer_types = single.layer_types[:1]
        model_class: Any = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        with torch.device("meta"):
            shell: Any = model_class._from_config(single, attn_implementation=attention.NAME)
        self.config._attn_implementation = attention.NAME
        self.config._experts_implementation = shell.config._experts_implementation
        self.embed_tokens: torch.nn.Module = shell.model.embed_tokens
        self.norm: torch.nn.Module = shell.model.norm
        self.lm_head: torch.nn.Module = shell.lm_head
        self._layer_class: Any = type(shell.model.layers[0])
        self._rotary_class: Any = type(shell.model.rotary_emb)

    def build_layer(self, layer_index: int) -> torch.nn.Module:
        """Layer `layer_index` of the model with uninitialised parameters, on torch's current default device."""
        layer: torch.nn.Module = self._layer_class(self.config, layer_index)
        return layer.eval().requires_grad_(False)

    def build_rotary(self, torch_device: torch.device) -> torch.nn.Module:
        """The module that turns positions into cosines and sines; it has no parameters."""
        rotary: torch.nn.Module = self._rotary_class(config=self.config)
        return rotary.to(torch_device)


class DecoderLayers:
    """Consecutive decoder layers with their rotary embedding, ready to run.

    `layers` are filled modules whose `layer_idx` counts from `kv_spec.first_layer`.
    """

    def __init__(
        self,
        layers: Sequence[torch.nn.Module],
        *,
        rotary: torch.nn.Module,
        config: transformers.PretrainedConfig,
        kv_spec: kv_cache.KVSpec,
    ) -> None:
        self.layers = tuple(layers)
        self.rotary = rotary
        self.kv_spec = kv_spec
        self.max_positions = families.max_positions(config)
        self._per_layer_type = "layer_type" in inspect.signature(rotary.forward).parameters
        layer_types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        self._layer_types = layer_types[kv_spec.first_layer : kv_spec.first_layer + len(self.layers)]

    def forward(self, hidden: torch.Tensor, batch: ragged.RaggedBatch) -> torch.Tensor:
        """[T, D] -> [T, D]; writes the KV cache and raises each session's `kv_len` to its segment's end.

        Raises `PositionMismatch` beyond the positions that the model computes exactly.
        """
        if batch.max_position > self.max_positions:
            raise errors.PositionMismatch(
                f"position {batch.max_position - 1} is outside the model's context of {self.max_positions}",
                field="start_pos",
            )
        states = hidden[None]  # [1, T, D]
        positions = batch.positions[None]
        embeddings: dict[str, Any] = {}
        for layer, layer_type in zip(self.layers, self._layer_types, strict=True):
            if layer_type not in embeddings:
                embeddings[layer_type] = self._rotate(states, positions, layer_type)
            states = layer(
                states,
                attention_mask=None,
                position_ids=positions,
                position_embeddings=embeddings[layer_type],
                milliner_batch=batch,
            )
        batch.commit()
        return states[0]

    def _rotate(self, states: torch.Tensor, positions: torch.Tensor, layer_type: str) -> Any:
        if self._per_layer_type:
            return self.rotary(states, positions, layer_type)
        return self.rotary(states, positions)
