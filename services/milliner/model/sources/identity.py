"""A model's digest, which needs every byte, and its fingerprint, which needs none of the weights'.

Digest: SHA-256 over the fields of config.json that decide the output, and over name, dtype, shape and bytes of every
tensor in the order of their names; neither sharding nor file order nor the dtype that the configuration suggests
matters. Fingerprint: the same configuration, every tensor's place, and every file's size and entity tag: what a tier
that fetches a part of the files can compare before it trusts the digest that another found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from milliner.core import errors
from milliner.model.sources import folders, layout

# Fields that tools add or that only suggest something; all others may decide the output.
_IRRELEVANT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache", "auto_map"}
)


def model_digest(
    folder: folders.Folder,
    model: layout.ModelLayout,
    *,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """`sha256:<hex>` of a model, each byte read once and nothing kept; `on_bytes(done, total)` as they come."""
    digest = hashlib.sha256(_decisive(model.raw_config))
    done, total = 0, model.num_bytes
    for run in _runs([tensor for _, tensor in sorted(model.tensors.items())]):
        parts = _Parts(folder.stream(run[0].file, run[0].begin, run[-1].end))
        for tensor in run:
            digest.update(json.dumps([tensor.name, tensor.dtype, list(tensor.shape)]).encode())
            for part in parts.take(tensor.num_bytes):
                digest.update(part)
                done += len(part)
                on_bytes(done, total)
    return f"sha256:{digest.hexdigest()}"


def fingerprint(model: layout.ModelLayout) -> str:
    """`sha256:<hex>` of what is known without reading weights."""
    files = sorted((name, stat.size_bytes, stat.tag) for name, stat in model.files.items())
    tensors = sorted((t.name, t.dtype, t.shape, t.file, t.begin, t.end) for t in model.tensors.values())
    digest = hashlib.sha256(_decisive(model.raw_config))
    digest.update(json.dumps([files, tensors]).encode())
    return f"sha256:{digest.hexdigest()}"


def check_fingerprint(folder: folders.Folder, model: layout.ModelLayout, *, expected: str, digest: str) -> None:
    """Raises `SourceError` (*expected*) unless the files are those whose digest was found at inspection."""
    found = fingerprint(model)
    if found != expected:
        raise errors.SourceError(
            f"the files at {folder.where} are no longer those of the model with digest {digest} (their fingerprint is "
            f"{found}, at inspection it was {expected}): bring the files back, or name the new ones by another "
            "revision or path",
            field=folder.field,
        )


def _decisive(raw_config: Mapping[str, Any]) -> bytes:
    decisive = {key: value for key, value in raw_config.items() if key not in _IRRELEVANT}
    return json.dumps(decisive, sort_keys=True, separators=(",", ":")).encode()


def _runs(tensors: Sequence[layout.StoredTensor]) -> Iterator[list[layout.StoredTensor]]:
    """Neighbours in the list that are neighbours in a file too: one request each over a network."""
    run: list[layout.StoredTensor] = []
    for tensor in tensors:
        if run and (tensor.file != run[-1].file or tensor.begin != run[-1].end):
            yield run
            run = []
        run.append(tensor)
    if run:
        yield run


class _Parts:
    """A stream of bytes, cut anew at the borders of tensors."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def take(self, num_bytes: int) -> Iterator[memoryview]:
        """The next `num_bytes` bytes; the stream has them all."""
        while num_bytes > 0:
            if not self._rest:
                self._rest = memoryview(next(self._stream))
            part, self._rest = self._rest[:num_bytes], self._rest[num_bytes:]
            num_bytes -= len(part)
            yield part
