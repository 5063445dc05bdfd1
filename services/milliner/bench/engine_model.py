"""A random model twice over the same weights: bare `transformers` layers, and a slice for the engine. Needs torch.

The bare side is what anyone would write with `transformers`: the family's layers one after the other with `sdpa`
attention and a `DynamicCache`. Sharing the weights keeps memory low and gives neither side a warmer cache.
Used by `bench.engine`, on the executor's thread.
"""

from __future__ import annotations

import dataclasses

import torch
import transformers
from transformers.models.qwen2 import modeling_qwen2

from milliner.model import decoder, families
from milliner.model import slice as slices


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """The architecture's numbers; the defaults are Qwen2-0.5B's (its config.json)."""

    layers: int = 24
    hidden_size: int = 896
    heads: int = 14
    kv_heads: int = 2
    intermediate_size: int = 4864
    max_positions: int = 32768

    def config(self) -> transformers.Qwen2Config:
        return transformers.Qwen2Config(
            vocab_size=1,  # neither embedding nor lm_head is measured
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.max_positions,
        )


class BareLayers:
    """`transformers`' decoder layers over equally long sequences, one batch of them."""

    def __init__(self, shape: Shape, *, dtype: torch.dtype, torch_device: torch.device) -> None:
        config = shape.config()
        config._attn_implementation = "sdpa"
        generator = torch.Generator(device=torch_device).manual_seed(0)
        with torch.device("meta"):
            layers = [modeling_qwen2.Qwen2DecoderLayer(config, index) for index in range(shape.layers)]
        self.torch_device = torch_device
        self.layers = [layer.to_empty(device=torch_device).to(dtype).eval().requires_grad_(False) for layer in layers]
        self._rotary = modeling_qwen2.Qwen2RotaryEmbedding(config).to(torch_device)
        for name, parameter in self.layers[0].named_parameters():
            if "layernorm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)
        for layer in self.layers[1:]:  # copies: their values do not matter, that each has memory of its own does
            layer.load_state_dict(self.layers[0].state_dict())

    def filled(self, hidden: torch.Tensor, *, sequences: int) -> transformers.DynamicCache:
        """A cache that holds [T, D] as the beginning of so many equal sequences, computed once."""
        cache = transformers.DynamicCache()
        if len(hidden):
            self.forward(hidden[None], cache, 0)
            cache.batch_repeat_interleave(sequences)
        return cache

    @torch.inference_mode()
    def forward(self, hidden: torch.Tensor, cache: transformers.DynamicCache, start: int) -> torch.Tensor:
        """[B, T, D] at positions start … start + T - 1 of every sequence -> [B, T, D]."""
        positions = torch.arange(start, start + hidden.shape[1], device=self.torch_device)[None]
        rotated = self._rotary(hidden, positions)
        for layer in self.layers:
            hidden = layer(
                hidden,
                attention_mask=None,
                position_ids=positions,
                past_key_values=cache,
                position_embeddings=rotated,
            )
        if self.torch_device.type == "cuda":
            torch.cuda.synchronize(self.torch_device)
        return hidden


def truncate(cache: transformers.DynamicCache, cached_tokens: int) -> None:
    """Back to `cached_tokens` cached positions of each sequence."""
    surplus = cache.get_seq_length() - cached_tokens
    if surplus > 0:
        cache.crop(-surplus)  # transformers 5: a negative number is what to remove


def slice_of(bare: BareLayers, shape: Shape, *, dtype: torch.dtype) -> slices.ModelSlice:
    """The same layers, with the same tensors, as a slice of the engine."""
    scaffold = decoder.Scaffold(shape.config())
    layers = []
    for index, layer in enumerate(bare.layers):
        with torch.device("meta"):
            own = scaffold.build_layer(index)
        own.load_state_dict(layer.state_dict(), assign=True)
        layers.append(own.requires_grad_(False))
    kv_spec = families.kv_spec(scaffold.config, start=0, end=shape.layers)
    return slices.ModelSlice(
        slices.SliceSpec(0, shape.layers, embedding=False, lm_head=False),
        config=scaffold.config,
        layers=decoder.DecoderLayers(
            layers, rotary=scaffold.build_rotary(bare.torch_device), config=scaffold.config, kv_spec=kv_spec
        ),
        embed_tokens=None,
        norm=None,
        lm_head=None,
        dtype=dtype,
        torch_device=bare.torch_device,
    )
