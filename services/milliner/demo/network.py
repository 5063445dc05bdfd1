"""The network that pretraining runs: a Llama with fused projections, quick on CPU; and its Hugging Face names.

`transformers`' own Llama is what serves the result. This one computes the same function (a test compares them) with
query, key and value in one matrix, gate and up in one, and attention as blocked matrix products, which torch 2.13 runs
faster than its fused attention on a CPU with bfloat16 instructions (9,500 against 6,500 tokens/s of training at length
512 on two EPYC 9005 cores, compiled, 21 November 2026).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn
from torch.nn import functional

QUERY_BLOCK_TOKENS = 512
"""Queries per block of attention: keys past a block's last query are not multiplied (arbitrary)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the target; the defaults are the demo's (6.9 M parameters)."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 688
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 4096
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5


class Layer(nn.Module):
    """One decoder layer with fused projections."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        width, heads, kv_heads, size = (
            shape.hidden_size,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
        )
        self.input_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * size, bias=False)
        self.output = nn.Linear(heads * size, width, bias=False)
        self.post_norm = nn.Parameter(torch.ones(width))
        self.gate_up = nn.Linear(width, 2 * shape.intermediate_size, bias=False)
        self.down = nn.Linear(shape.intermediate_size, width, bias=False)

    def forward(self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        shape = self.shape
        batch, length, width = hidden.shape  # [B, T, D]
        heads, kv_heads, size = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        normed = functional.rms_norm(hidden, (width,), self.input_norm, shape.rms_norm_eps)
        query, key, value = self.qkv(normed).split([heads * size, kv_heads * size, kv_heads * size], -1)
        query = _rotate(query.view(batch, length, heads, size).transpose(1, 2), cos, sin)
        key = _rotate(key.view(batch, length, kv_heads, size).transpose(1, 2), cos, sin)
        value = value.view(batch, length, kv_heads, size).transpose(1, 2)
        mixed = _causal_attention(query, key, value)
        hidden = hidden + self.output(mixed)
        gate, up = self.gate_up(functional.rms_norm(hidden, (width,), self.post_norm, shape.rms_norm_eps)).split(
            shape.intermediate_size, -1
        )
        return hidden + self.down(functional.silu(gate) * up)  # type: ignore[no-any-return]


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding. [B, H, T, size], tables [T, size]."""
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat((-second, first), -1) * sin


def _causal_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[B, H, T, size] queries against [B, H_kv, T, size] keys and values; returns [B, T, H * size]."""
    batch, heads, length, size = query.shape
    kv_heads = key.shape[1]
    group = heads // kv_heads
    grouped = query.reshape(batch * kv_heads, group, length, size)
    key, value = key.reshape(batch * kv_heads, length, size), value.reshape(batch * kv_heads, length, size)
    blocks = []
    for start in range(0, length, QUERY_BLOCK_TOKENS):
        end = min(start + QUERY_BLOCK_TOKENS, length)
        rows = end - start
        block = grouped[:, :, start:end].reshape(batch * kv_heads, group * rows, size)
        scores = torch.bmm(block, key[:, :end].transpose(1, 2)) / math.sqrt(size)
        scores = scores.view(batch * kv_heads, group, rows, end)
        position = torch.arange(start, end, device=query.device)
        seen = torch.arange(end, device=query.device)[None, :] <= position[:, None]
        weights = torch.softmax(scores.float().masked_fill(~seen, -1e9), -1).to(value.dtype)
        mixed = torch.bmm(weights.view(batch * kv_heads, group * rows, end), value[:, :end])
        blocks.append(mixed.view(batch, kv_heads, group, rows, size))
    joined = torch.cat(blocks, 3).reshape(batch, heads, length, size)
    return joined.transpose(1, 2).reshape(batch, length, heads * size)


class Network(nn.Module):
    """The target in training. `forward` gives the mean loss of `[B, T]` ids against `[B, T]` next ids, in nats."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden_size))
        residual_std = 0.02 / math.sqrt(2 * shape.num_hidden_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(
                    parameter, std=residual_std if name.endswith(("output.weight", "down.weight")) else 0.02
                )
        self._loss = _loss
        self._tables: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def compile_parts(self) -> None:
        """Compiles the layer once for all layers, and the loss; needs a C++ compiler on CPU."""
        for layer in self.layers:
            layer.compile(dynamic=False)
        self._loss = torch.compile(_loss, dynamic=False)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Normed final hidden states [B, T, D] of ids [B, T]."""
        cos, sin = self.rope(ids.shape[1])
        hidden = self.embedding(ids)
        for layer in self.layers:
            hidden = layer(hidden, cos, sin)
        return functional.rms_norm(hidden, (self.shape.hidden_size,), self.norm, self.shape.rms_norm_eps)

    def forward(self, ids: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        return self._loss(self.hidden(ids), self.embedding.weight, following)

    def rope(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        known = self._tables.get(length)
        if known is None or known[0].dtype != dtype:
            exponents = torch.arange(0, self.shape.head_dim, 2, dtype=torch.float32) / self.shape.head_dim
            angles = torch.arange(length, dtype=torch.float32)[:, None] * self.shape.rope_theta ** -exponents[None]
            both = torch.cat((angles, angles), -1)
            known = self._tables[length] = (both.cos().to(dtype), both.sin().to(dtype))
        return known


def _loss(hidden: torch.Tensor, weight: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    logits = hidden @ weight.t()  # [B, T, V]
    return functional.cross_entropy(logits.view(-1, logits.shape[-1]).float(), following.reshape(-1))


def hugging_face_config(shape: Shape) -> dict[str, object]:
    """`config.json` of the target as `transformers` reads it."""
    sizes: dict[str, object] = asdict(shape)
    return sizes | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1,
        "use_cache": True,
        "dtype": "bfloat16",
    }


def hugging_face_tensors(network: Network) -> dict[str, torch.Tensor]:
    """The weights in bfloat16 under the names of `LlamaForCausalLM` (tied: no `lm_head.weight`)."""
    shape = network.shape
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    tensors = {"model.embed_tokens.weight": network.embedding.weight, "model.norm.weight": network.norm}
    for index, layer in enumerate(network.layers):
        assert isinstance(layer, Layer)
        prefix = f"model.layers.{index}"
        query, key, value = layer.qkv.weight.split([queries, keys, keys])
        gate, up = layer.gate_up.weight.split(shape.intermediate_size)
        tensors |= {
            f"{prefix}.input_layernorm.weight": layer.input_norm,
            f"{prefix}.post_attention_layernorm.weight": layer.post_norm,
            f"{prefix}.self_attn.q_proj.weight": query,
            f"{prefix}.self_attn.k_proj.weight": key,
            f"{prefix}.self_attn.v_proj.weight": value,
            f"{prefix}.self_attn.o_proj.weight": layer.output.weight,
            f"{prefix}.mlp.gate_proj.weight": gate,
            f"{prefix}.mlp.up_proj.weight": up,
            f"{prefix}.mlp.down_proj.weight": layer.down.weight,
        }
    return {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in tensors.items()}
