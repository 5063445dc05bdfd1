"""What a checkpoint folder's tokenizer is: two tiers may exchange token ids if these agree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
    found = of_files(lambda name: (folder / name).read_bytes() if (folder / name).is_file() else None)
    if found is None:
        raise errors.CheckpointError(
            f"there is no tokenizer in {folder}: copy tokenizer.json and tokenizer_config.json of the model there",
            field=WHOLE,
        )
    return found


def of_files(read: Callable[[str], bytes | None]) -> str | None:
    """The same over files that `read` gives by name, None for one that is not there; None where there are none."""
    whole = read(WHOLE)
    read_all = [(WHOLE, whole)] if whole is not None else [(name, read(name)) for name in _PARTS]
    contents = [(name, content) for name, content in read_all if content is not None]
    found = hashlib.sha256()
    for name, content in contents:
        found.update(f"{name}:{len(content)}:".encode())
        found.update(content)
    return f"sha256:{found.hexdigest()}" if contents else None
