"""The adapter: the small network that turns layer-s hidden states into a guess of the final ones, and so drafts.

Three forms (docs/algorithms.md), all followed by a norm of their own and the target's frozen lm_head:

- `Attention`: `h' = h + Attention(RMSNorm(h))` (Kangaroo's form);
- `Layer`: a whole decoder layer, attention and SwiGLU;
- `LayerWithDeepState`: a whole layer over `h_t + W·RMSNorm(z)`, where z is the *deep state* of the position before: the
  target's final hidden state before its final norm, whose logits produced the token at t. Three cases of z: verified
  (the target's own), drafted (this adapter's `states` for the position before), absent (prompt positions, whose deep
  states never come down: a learned vector stands in for `W·RMSNorm(z)`).

The layer is the same beside every family of targets: full attention, rotary positions, RMSNorm, SiLU; its sizes are the
target's. `forward` serves ragged batches against a paged KV cache of one layer; training goes through `run` with other
attention. Runs on the accelerator's executor thread.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable

import torch
import torch.nn.functional as F
import transformers
from torch import nn

from milliner.model import attention, families, kv_cache, ragged

# Queries [B, H, T, Dh], keys and values [B, Hkv, T, Dh], rotated -> [B, T, H * Dh].
Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class AdapterForm(enum.StrEnum):
    """What the adapter consists of; values are written in adapter files and on the command line."""

    LAYER = "Layer"
    ATTENTION = "Attention"
    LAYER_WITH_DEEP_STATE = "LayerWithDeepState"


@dataclasses.dataclass(frozen=True, slots=True)
class AdapterConfig:
    """Form and sizes; the sizes are the target's."""

    form: AdapterForm
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rope_theta: float
    rms_norm_eps: float

    @classmethod
    def from_target(cls, config: transformers.PretrainedConfig, *, form: AdapterForm) -> AdapterConfig:
        """The adapter that fits beside a target; raises `UnsupportedModel` for families that cannot be sliced."""
        layer = families.kv_spec(config, start=0, end=1).layers[0]
        return cls(
            form=form,
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=layer.num_kv_heads,
            head_dim=layer.head_dim,
            intermediate_size=config.intermediate_size,
            rope_theta=_rope_theta(config),
            rms_norm_eps=_norm_eps(config),
        )


def _norm_eps(config: transformers.PretrainedConfig) -> float:
    """The target's epsilon, under whichever name its family has it."""
    names = ("rms_norm_eps", "layer_norm_eps", "norm_epsilon")
    return float(next((getattr(config, name) for name in names if getattr(config, name, None)), 1e-5))


def _rope_theta(config: transformers.PretrainedConfig) -> float:
    """The base of the target's rotary embedding; of its full-attention layers where layer types differ."""
    parameters = getattr(config, "rope_parameters", None) or {}
    parameters = parameters.get("full_attention", parameters)
    return float(parameters.get("rope_theta") or getattr(config, "rope_theta", None) or 10_000.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Drafted:
    """What the adapter makes of T positions.

    `states` [T, D]: its guess of the deep states, the `deep` input of the positions that follow drafted tokens.
    `normed` [T, D]: the same after the adapter's own norm, ready for `ModelSlice.project`.
    """

    states: torch.Tensor
    normed: torch.Tensor


class Adapter(nn.Module):
    """An adapter's weights and its forward pass. `layer_idx` and `kv_spec` say that it caches one layer."""

    layer_idx = 0

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        width, eps = config.hidden_size, config.rms_norm_eps
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.input_norm = nn.RMSNorm(width, eps)
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.output_norm = nn.RMSNorm(width, eps)
        if config.form is not AdapterForm.ATTENTION:
            self.post_norm = nn.RMSNorm(width, eps)
            self.gate_proj = nn.Linear(width, config.intermediate_size, bias=False)
            self.up_proj = nn.Linear(width, config.intermediate_size, bias=False)
            self.down_proj = nn.Linear(config.intermediate_size, width, bias=False)
        if self.sees_deep_states:
            self.deep_norm = nn.RMSNorm(width, eps)
            self.deep_proj = nn.Linear(width, width, bias=False)
            self.absent = nn.Parameter(torch.zeros(width))

    @property
    def sees_deep_states(self) -> bool:
        return self.config.form is AdapterForm.LAYER_WITH_DEEP_STATE

    @property
    def kv_spec(self) -> kv_cache.KVSpec:
        """One layer with the target's KV heads, no window."""
        layer = kv_cache.LayerKV(num_kv_heads=self.config.num_key_value_heads, head_dim=self.config.head_dim)
        return kv_cache.KVSpec(first_layer=0, layers=(layer,))

    @torch.no_grad()
    def forward(
        self,
        hidden: torch.Tensor,
        batch: ragged.RaggedBatch,
        *,
        deep: torch.Tensor | None = None,
        deep_known: torch.Tensor | None = None,
    ) -> Drafted:
        """Layer-s hidden states [T, D] of all segments; writes the adapter's KV and raises each `kv_len`.

        `deep` [T, D] holds, for position t, the deep state of position t - 1 (verified or drafted); `deep_known` bool
        [T] marks the rows that have one. None: no position has one, respectively all have. Forms without deep states
        ignore both.
        """

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            mixed, _ = attention.ragged_attention(self, query, key, value, None, milliner_batch=batch)
            return mixed.flatten(2)

        mixed_in = self.mix_in(hidden, deep, deep_known)
        states = self.run(mixed_in[None], batch.positions[None], attend)[0]
        batch.commit()
        return Drafted(states=states, normed=self.output_norm(states))

    def mix_in(self, hidden: torch.Tensor, deep: torch.Tensor | None, deep_known: torch.Tensor | None) -> torch.Tensor:
        """`h_t + W·RMSNorm(z)`, with the learned vector where z is absent; [..., D] -> [..., D]."""
        if not self.sees_deep_states:
            return hidden
        if deep is None:
            return hidden + self.absent
        seen: torch.Tensor = self.deep_proj(self.deep_norm(deep))
        if deep_known is not None:
            seen = torch.where(deep_known[..., None], seen, self.absent)
        return hidden + seen

    def run(self, inputs: torch.Tensor, positions: torch.Tensor, attend: Attend) -> torch.Tensor:
        """The block itself over [B, T, D] at positions [B, T], with whatever attention is given; returns `states`."""
        config = self.config
        normed = self.input_norm(inputs)
        cos, sin = _rotary(positions, config, dtype=inputs.dtype)
        query = _rotate(_heads(self.q_proj(normed), config.head_dim), cos, sin)
        key = _rotate(_heads(self.k_proj(normed), config.head_dim), cos, sin)
        value = _heads(self.v_proj(normed), config.head_dim)
        states: torch.Tensor = inputs + self.o_proj(attend(query, key, value))
        if config.form is AdapterForm.ATTENTION:
            return states
        normed = self.post_norm(states)
        return states + self.down_proj(F.silu(self.gate_proj(normed)) * self.up_proj(normed))  # type: ignore[no-any-return]


def _heads(states: torch.Tensor, head_dim: int) -> torch.Tensor:
    """[B, T, H * Dh] -> [B, H, T, Dh]."""
    heads: torch.Tensor = states.unflatten(-1, (-1, head_dim))
    return heads.transpose(1, 2)


def _rotary(positions: torch.Tensor, config: AdapterConfig, *, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [B, 1, T, Dh] of rotary embedding, computed in float32."""
    exponents = torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.float32) / config.head_dim
    angles = positions[..., None].float() * config.rope_theta**-exponents  # [B, T, Dh / 2]
    doubled = torch.cat((angles, angles), dim=-1)[:, None]
    return doubled.cos().to(dtype), doubled.sin().to(dtype)


def _rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return (states * cos + torch.cat((-second, first), dim=-1) * sin).to(states.dtype)
