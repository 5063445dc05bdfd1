"""A local model's digest: two tiers that agree on it compute with the same weights in the same architecture.

What it covers: `sources.identity`. A folder written by `slice_writer` or fetched in part carries the digest of the
whole model, so both tiers name the same one.
"""

from __future__ import annotations

from pathlib import Path

from milliner.model import checkpoint as checkpoints
from milliner.model.sources import folders, identity, layout


def model_digest(path: Path) -> str:
    """`sha256:<hex>` of the model in a checkpoint folder; raises `CheckpointError` as `Checkpoint.open` does."""
    raw = checkpoints.read_json(path / checkpoints.CONFIG_FILE, remedy="a checkpoint folder needs it")
    held = checkpoints.held_slice(raw)
    if held is not None:
        return held.parent_digest
    for file in sorted(set(checkpoints.tensor_files(path).values())):
        with checkpoints.opened(file):  # raises, naming the file, where its header does not fit its size
            pass
    folder = folders.LocalFolder(path, field=str(path))
    return identity.model_digest(folder, layout.read(folder))
