"""Reading a whole model for an engine: backend, tokens in and out, and what it is. On the executor's thread."""

from __future__ import annotations

import dataclasses
import pathlib

import torch

from milliner.core import generation
from milliner.engine import limits, refiner, slice_backend, token_codec
from milliner.model import checkpoint, digest, tokenizer_digest
from milliner.model import slice as slices


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded:
    """What reading the files gives."""

    backend: slice_backend.SliceBackend
    codec: token_codec.TokenCodec
    refiner: refiner.Refiner
    info: generation.WholeModelInfo


def load(
    folder: pathlib.Path, *, dtype: torch.dtype, torch_device: torch.device, config: limits.EngineConfig
) -> Loaded:
    """Reads the whole model of a checkpoint folder; raises `CheckpointError` or `UnsupportedModel`."""
    opened = checkpoint.Checkpoint.open(folder)
    spec = slices.SliceSpec(0, opened.num_layers, embedding=True, lm_head=True)
    loaded = slices.load_slice(opened, spec, dtype=dtype, torch_device=torch_device)
    info = generation.WholeModelInfo(
        model_digest=digest.model_digest(folder),
        tokenizer_digest=tokenizer_digest.tokenizer_digest(folder),
        num_layers=opened.num_layers,
        vocab_size=loaded.vocab_size,
        max_positions=loaded.max_positions,
    )
    return Loaded(
        backend=slice_backend.SliceBackend(loaded, config=config),
        codec=token_codec.TokenCodec(loaded),
        refiner=refiner.Refiner(loaded.kv_spec),
        info=info,
    )
