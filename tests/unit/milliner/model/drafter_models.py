"""Tiny models with a tokenizer and text, for the drafters' tests."""

from __future__ import annotations

import pathlib

import torch
import transformers

from milliner.demo import tokenizer

SENTENCES = "the cat sat on the mat. a dog ran to the old house. def add(a, b):\n    return a + b\n"


def write_llama(folder: pathlib.Path, *, layers: int = 3, seed: int = 0) -> pathlib.Path:
    """A random Llama whose weights are large enough that its choices differ from place to place."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.12)
    model.save_pretrained(folder)
    tokenizer.save(tokenizer.train([SENTENCES * 4], vocabulary_size=300), folder, max_positions=256)
    return folder


def write_text(path: pathlib.Path, *, repeats: int = 120) -> pathlib.Path:
    """Text with some variety: sentences with numbers."""
    path.write_text("".join(f"{SENTENCES}{index} times {index * 7 % 13}. " for index in range(repeats)))
    return path
