"""Writes the trained target and its held-out text as the package ships them."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

from safetensors import torch as safetensors_torch

from milliner.demo import corpus, network

MIN_HELD_OUT_CHARACTERS = 8_500
"""A shipped held-out document holds a bench prompt of 2,048 tokens and its answer (3 characters per token)."""

MAX_HELD_OUT_CHARACTERS = 32_000
"""Longer held-out documents are cut here, so that the folder stays small (arbitrary)."""


def write_model(trained: network.Network, folder: pathlib.Path) -> None:
    """Writes `config.json`, `generation_config.json` and `model.safetensors` (bfloat16); not the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(network.hugging_face_config(trained.shape), indent=2) + "\n")
    (folder / "generation_config.json").write_text(
        json.dumps({"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "do_sample": False}, indent=2) + "\n"
    )
    safetensors_torch.save_file(
        network.hugging_face_tensors(trained), str(folder / "model.safetensors"), metadata={"format": "pt"}
    )


def write_held_out(documents: Iterable[corpus.Document], folder: pathlib.Path) -> None:
    """Writes the held-out documents that are long enough, one file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for document in documents:
        if len(document.text) >= MIN_HELD_OUT_CHARACTERS:
            name = document.name.replace("/", "-").removesuffix(".py") + ".txt"
            (folder / name).write_text(document.text[:MAX_HELD_OUT_CHARACTERS], encoding="utf-8")
