"""Trains the demo's byte-level BPE tokenizer and writes it as a Hugging Face tokenizer folder. Torch-free."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

VOCABULARY_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
END_OF_TEXT_ID, PAD_ID = 0, 1

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
"""One message after the other, a line break between: the model continues text, it was never taught a dialogue."""


def train(texts: Iterable[str], *, vocabulary_size: int = VOCABULARY_SIZE) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of `vocabulary_size` entries, the two special tokens included."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, folder: pathlib.Path, *, max_positions: int) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` as `transformers.AutoTokenizer` reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n")


def load(folder: pathlib.Path) -> tokenizers.Tokenizer:
    """The tokenizer that `save` wrote."""
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
