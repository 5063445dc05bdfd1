"""Tiny random float32 checkpoints of every family, and slices over them, to compare with `transformers`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from milliner.model import checkpoint, kv_cache, ragged
from milliner.model import slice as slices

CPU = torch.device("cpu")
VOCAB_SIZE = 97
WINDOW = 9  # shorter than every test's prompt, so that windows matter

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "initializer_range": 0.3,  # large, so that random models do not answer the same token for ever
}
_MOE: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
_GEMMA: dict[str, Any] = {"head_dim": 16, "tie_word_embeddings": False}  # tied, random Gemmas repeat the last token
_WINDOWED: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": _MIXED}
_LONG_ROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.1, 2.2, 2.3],
    "original_max_position_embeddings": 128,
}
_LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# Name of the case -> (model_type, configuration): what docs/models.md promises, with variants.
PROMISED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied, biases": ("llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, llama3 rope": ("llama", {"rope_parameters": _LLAMA3_ROPE}),
    "mistral, window": ("mistral", {"sliding_window": WINDOW}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "sliding_window": WINDOW}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window": ("qwen2", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3_moe": ("qwen3_moe", {**_MOE, "head_dim": 16, "mlp_only_layers": [1]}),
    "gemma": ("gemma", _GEMMA),
    "gemma, tied": ("gemma", {**_GEMMA, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {**_GEMMA, "sliding_window": WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3": ("gemma3_text", {**_GEMMA, **_WINDOWED, "query_pre_attn_scalar": 16}),
    "phi3": ("phi3", {"partial_rotary_factor": 0.5}),
    "phi3, window": ("phi3", {"sliding_window": WINDOW}),
    "phi3, longrope": ("phi3", {"original_max_position_embeddings": 128, "rope_parameters": _LONG_ROPE}),
}

# Families that come with the design: their own layers run unchanged.
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("apertus", {}),
    "arcee": ("arcee", {}),
    "cohere": ("cohere", {"logit_scale": 0.3}),
    "cohere2": ("cohere2", {**_WINDOWED, "logit_scale": 0.3}),
    "ernie4_5": ("ernie4_5", {"head_dim": 8}),
    "exaone4": ("exaone4", {**_WINDOWED}),
    "flex_olmo": ("flex_olmo", _MOE),
    "glm": ("glm", {"head_dim": 8}),
    "glm4": ("glm4", {"head_dim": 8}),
    "gpt_oss": ("gpt_oss", {**_WINDOWED, "num_local_experts": 4, "head_dim": 16}),
    "granite": (
        "granite",
        {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.3},
    ),
    "helium": ("helium", {"head_dim": 8}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {"head_dim": 8}),
    "ministral": ("ministral", {**_WINDOWED, "head_dim": 8}),
    "olmo": ("olmo", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", _WINDOWED),
    "olmoe": ("olmoe", _MOE),
    "qwen2_moe": ("qwen2_moe", {**_MOE, "shared_expert_intermediate_size": 24}),
    "seed_oss": ("seed_oss", {"head_dim": 8}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "starcoder2": ("starcoder2", {"sliding_window": WINDOW}),
    "vaultgemma": ("vaultgemma", {**_GEMMA, **_WINDOWED, "query_pre_attn_scalar": 16}),
}
CASES = {**PROMISED, **FURTHER}


def save(case: str, folder: Path, *, max_shard_size: str = "5GB", **overrides: Any) -> transformers.PreTrainedModel:
    """Writes a random checkpoint of the case and returns the model as `transformers` loads it from there."""
    model_type, fields = CASES[case]
    config = transformers.AutoConfig.for_model(model_type, **{**_BASE, **fields, **overrides})
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms, biases, sinks: away from their neutral start
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    loaded: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loaded.eval()
    return loaded


def load(path: Path, *bounds: int, ends: bool = True) -> list[slices.ModelSlice]:
    """Consecutive slices [bounds[0], bounds[1]), …; the first holds embedding and lm_head, as HAT's device does."""
    opened = checkpoint.Checkpoint.open(path)
    return [
        slices.load_slice(
            opened,
            slices.SliceSpec(start, end, embedding=ends and i == 0, lm_head=ends and i == 0),
            dtype=torch.float32,
            torch_device=CPU,
        )
        for i, (start, end) in enumerate(itertools.pairwise(bounds))
    ]


@dataclasses.dataclass
class Session:
    """One session's KV caches over consecutive slices."""

    slices: Sequence[slices.ModelSlice]
    sequences: Sequence[kv_cache.SequenceKV]

    def forward(self, hidden: torch.Tensor, start: int, **fields: Any) -> torch.Tensor:
        """[T, D] through all slices at slots [start, start + T), after truncating to `start`."""
        for model_slice, sequence in zip(self.slices, self.sequences, strict=True):
            sequence.truncate(start)
            sequence.reserve(len(hidden))
            segment = ragged.Segment(sequence, start, len(hidden), **fields)
            hidden = model_slice.forward(hidden, ragged.RaggedBatch.build([segment], torch_device=CPU))
        return hidden

    def logits(self, token_ids: torch.Tensor, start: int, **fields: Any) -> torch.Tensor:
        """[T] -> [T, V]."""
        head = self.slices[0]
        return head.logits(self.forward(head.embed(token_ids), start, **fields))


def caches(model_slices: Iterable[slices.ModelSlice], *, num_pages: int = 64) -> list[kv_cache.PagedKVCache]:
    """One small-paged cache per slice, so that even short prompts span pages."""
    return [
        kv_cache.PagedKVCache(
            model_slice.kv_spec, num_pages=num_pages, page_tokens=4, dtype=torch.float32, torch_device=CPU
        )
        for model_slice in model_slices
    ]


def open_session(model_slices: Sequence[slices.ModelSlice], **fields: Any) -> Session:
    return Session(model_slices, [cache.open() for cache in caches(model_slices, **fields)])


def prompt(num_tokens: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB_SIZE, (num_tokens,), generator=torch.Generator().manual_seed(seed))
