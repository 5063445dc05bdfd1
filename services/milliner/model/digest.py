"""A model's digest: two tiers that agree on it compute with the same weights in the same architecture.

SHA-256 over the fields of config.json that decide the output, and over name, dtype, shape and bytes of every tensor
in the order of their names; neither sharding nor file order nor the dtype that the configuration suggests matters.
A folder written by `slice_writer` carries the digest of the whole model, so both tiers name the same one.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from pathlib import Path
from typing import Any

from milliner.model import checkpoint as checkpoints

# Fields that tools add or that only suggest something; all others may decide the output.
_IRRELEVANT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "auto_map"}
)


def model_digest(path: Path) -> str:
    """`sha256:<hex>` of the model in a checkpoint folder; raises `CheckpointError` as `Checkpoint.open` does."""
    raw = checkpoints.read_json(path / checkpoints.CONFIG_FILE, remedy="a checkpoint folder needs it")
    held = checkpoints.held_slice(raw)
    if held is not None:
        return held.parent_digest
    digest = hashlib.sha256()
    decisive = {key: value for key, value in raw.items() if key not in _IRRELEVANT}
    digest.update(json.dumps(decisive, sort_keys=True, separators=(",", ":")).encode())
    files = sorted(set(checkpoints.tensor_files(path).values()))
    entries: dict[str, tuple[Path, dict[str, Any]]] = {}
    for file in files:
        entries.update({name: (file, entry) for name, entry in _header(file).items()})
    contents = {file: _Mapped(file) for file in files}
    try:
        for name, (file, entry) in sorted(entries.items()):
            digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
            contents[file].feed(digest, *entry["data_offsets"])
    finally:
        for content in contents.values():
            content.close()
    return f"sha256:{digest.hexdigest()}"


class _Mapped:
    """A safetensors file: eight bytes with the header's length, the header (JSON), the tensors' bytes."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as handle:
            self._data_start = 8 + struct.unpack("<Q", handle.read(8))[0]
            self._map = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

    def feed(self, digest: Any, begin: int, end: int) -> None:
        with memoryview(self._map) as view, view[self._data_start + begin : self._data_start + end] as part:
            digest.update(part)

    def close(self) -> None:
        self._map.close()


def _header(file: Path) -> dict[str, dict[str, Any]]:
    with checkpoints.opened(file):  # checks the header, so that it can be read plainly
        pass
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        header: dict[str, dict[str, Any]] = json.loads(handle.read(length))
    header.pop("__metadata__", None)
    return header
