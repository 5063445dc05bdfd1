"""Checkpoints as uploaders leave them: one file or shards, lm_head tied or not, large enough that headers are small."""

from __future__ import annotations

import pathlib
from typing import Any

import torch
import transformers

TOKENIZER = '{"version": "1.0"}'


def save(folder: pathlib.Path, *, tied: bool, sharded: bool, seed: int = 1) -> pathlib.Path:
    """A random Llama of 4 layers, 1.9 or 2.4 MB."""
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "vocab_size": 1000,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.save_pretrained(folder, max_shard_size="500KB" if sharded else "1GB")
    (folder / "tokenizer.json").write_text(TOKENIZER)
    return folder
