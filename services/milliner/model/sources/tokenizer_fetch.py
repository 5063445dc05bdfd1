"""Fetches what a device needs that runs no layer: configuration and tokenizer. Of the weights only headers are read, by
which it is known that the source is still what was inspected.
"""

from __future__ import annotations

import json
import pathlib

from milliner.model import checkpoint as checkpoints
from milliner.model import slice_writer
from milliner.model.sources import cached, folders, identity, layout

_FORM = "tokenizer 1"  # of the folder; a change makes caches invalid


def fetch_tokenizer(folder: folders.Folder, out: pathlib.Path, *, digest: str, fingerprint: str) -> bool:
    """Makes sure that `out` holds both; returns False where they were there already.

    `digest` and `fingerprint` are those that an inspection of the whole source found. Raises `SourceError` where the
    source has not what is needed or is not what was inspected, `UnavailableError` where it cannot be reached.
    """
    key: dict[str, object] = {"form": _FORM, "source": folder.where, "digest": digest, "fingerprint": fingerprint}

    def make(partial: pathlib.Path) -> None:
        model = layout.read(folder)
        identity.check_fingerprint(folder, model, expected=fingerprint, digest=digest)
        layout.check_whole(folder, model)
        write_files(folder, partial)
        config = json.dumps(dict(model.raw_config), indent=2) + "\n"
        (partial / checkpoints.CONFIG_FILE).write_text(config, encoding="utf-8")

    return cached.cached(out, key, make)


def write_files(folder: folders.Folder, partial: pathlib.Path) -> None:
    """Writes those of the tokenizer's files that the source has."""
    for name in slice_writer.TOKENIZER_FILES:
        content = folder.read(name)
        if content is not None:
            (partial / name).write_bytes(content)
