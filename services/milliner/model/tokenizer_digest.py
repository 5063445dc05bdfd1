"""What a checkpoint folder's tokenizer is: two tiers may exchange token ids if these agree."""

from __future__ import annotations

import hashlib
from pathlib import Path

from milliner.core import errors

# tokenizer.json holds all that turns text into ids; without it, whatever of these there is, in this order.
WHOLE = "tokenizer.json"
_PARTS = (
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tekken.json",
    "added_tokens.json",
)


def tokenizer_digest(folder: Path) -> str:
    """`sha256:<hex>` over the files that turn text into ids; raises `CheckpointError` where there are none."""
    names = [WHOLE] if (folder / WHOLE).is_file() else [name for name in _PARTS if (folder / name).is_file()]
    if not names:
        raise errors.CheckpointError(
            f"there is no tokenizer in {folder}: copy tokenizer.json and tokenizer_config.json of the model there",
            field=WHOLE,
        )
    found = hashlib.sha256()
    for name in names:
        content = (folder / name).read_bytes()
        found.update(f"{name}:{len(content)}:".encode())
        found.update(content)
    return f"sha256:{found.hexdigest()}"
