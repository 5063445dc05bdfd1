"""A slice: decoder layers [start, end) of a checkpoint, with or without embedding and final norm with lm_head.

Built by the roles and benches at start; run by the engine and the device on the accelerator's executor thread.
Only the slice's tensors are read from the checkpoint. Which families are exact: `families.FAMILIES`.
"""

from __future__ import annotations

import dataclasses

import torch
import transformers

from milliner.model import checkpoint as checkpoints
from milliner.model import decoder, families, kv_cache, ragged, weights


@dataclasses.dataclass(frozen=True, slots=True)
class SliceSpec:
    """Layers [start, end); `lm_head` stands for the final norm and lm_head together."""

    start: int
    end: int
    embedding: bool
    lm_head: bool


class ModelSlice:
    """The modules of a slice. Hidden states are `[T, D]` in `dtype` on `torch_device`; T runs over all sessions."""

    def __init__(
        self,
        spec: SliceSpec,
        *,
        config: transformers.PretrainedConfig,
        layers: decoder.DecoderLayers,
        embed_tokens: torch.nn.Module | None,
        norm: torch.nn.Module | None,
        lm_head: torch.nn.Module | None,
        dtype: torch.dtype,
        torch_device: torch.device,
    ) -> None:
        family = families.check(config)
        self.spec = spec
        self.config = config
        self.hidden_size: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.max_positions = layers.max_positions
        self.dtype = dtype
        self.torch_device = torch_device
        self.kv_spec: kv_cache.KVSpec = layers.kv_spec
        self.layers = layers
        self.embed_tokens = embed_tokens
        self.norm = norm
        self.lm_head = lm_head
        self._embedding_multiplier = _attribute(config, family.embedding_multiplier, 1.0)
        self._logits_multiplier = _attribute(config, family.logits_multiplier, 1.0)
        self._logits_divisor = _attribute(config, family.logits_divisor, 1.0)
        self._logits_cap = getattr(config, "final_logit_softcapping", None)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """[T] -> [T, D]: token embeddings, scaled as the family does."""
        assert self.embed_tokens is not None, "this slice was loaded without the embedding"
        hidden: torch.Tensor = self.embed_tokens(token_ids)
        return hidden if self._embedding_multiplier == 1.0 else hidden * self._embedding_multiplier

    @torch.no_grad()
    def forward(self, hidden: torch.Tensor, batch: ragged.RaggedBatch) -> torch.Tensor:
        """[T, D] -> [T, D] through the slice's layers; writes KV and raises each session's `kv_len`."""
        return self.layers.forward(hidden, batch)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, D] -> [T, V] float32: final norm, lm_head, the family's scaling and soft cap."""
        assert self.norm is not None, "this slice was loaded without lm_head"
        return self.project(self.norm(hidden))

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """[T, D] -> [T, V] float32: as `logits` without the norm, for adapters that bring their own."""
        assert self.lm_head is not None, "this slice was loaded without lm_head"
        logits: torch.Tensor = self.lm_head(hidden)
        if self._logits_multiplier != 1.0:
            logits = logits * self._logits_multiplier
        if self._logits_divisor != 1.0:
            logits = logits / self._logits_divisor
        if self._logits_cap is not None:
            logits = torch.tanh(logits / self._logits_cap) * self._logits_cap
        return logits.float()


def load_slice(
    checkpoint: checkpoints.Checkpoint, spec: SliceSpec, *, dtype: torch.dtype, torch_device: torch.device
) -> ModelSlice:
    """Reads a slice; only its tensors are touched.

    Raises `SplitOutsideModel` for bounds that the model or the folder does not have, `UnsupportedModel` for families
    that are not exact, `CheckpointError` naming the tensor that is missing, superfluous or of the wrong shape.
    """
    checkpoint.check_holds(start=spec.start, end=spec.end, embedding=spec.embedding, lm_head=spec.lm_head)
    scaffold = decoder.Scaffold(checkpoint.config)
    reader = weights.WeightReader(checkpoint, dtype=dtype, torch_device=torch_device)
    with torch.device("meta"):
        layers = [scaffold.build_layer(index) for index in range(spec.start, spec.end)]
    for index, layer in zip(range(spec.start, spec.end), layers, strict=True):
        reader.fill(layer, reader.layer_prefix(index))
    embed_tokens = norm = lm_head = None
    if spec.embedding:
        embed_tokens = reader.fill_embedding(scaffold.embed_tokens)
    if spec.lm_head:
        norm = reader.fill(scaffold.norm, reader.norm_prefix)
        shared = embed_tokens.weight if embed_tokens is not None else None
        lm_head = reader.fill_lm_head(scaffold.lm_head, shared=shared)  # type: ignore[arg-type]
    kv_spec = families.kv_spec(scaffold.config, start=spec.start, end=spec.end)
    return ModelSlice(
        spec,
        config=scaffold.config,
        layers=decoder.DecoderLayers(
            layers, rotary=scaffold.build_rotary(torch_device), config=scaffold.config, kv_spec=kv_spec
        ),
        embed_tokens=embed_tokens,
        norm=norm,
        lm_head=lm_head,
        dtype=dtype,
        torch_device=torch_device,
    )


def _attribute(config: transformers.PretrainedConfig, name: str | None, default: float) -> float:
    return default if name is None else float(getattr(config, name, default))
