"""Which bytes of which files a slice needs, and where they go in a safetensors file of its own. Pure arithmetic.

Tensors are laid out as they lie in their files, so that neighbours stay neighbours: a slice of an ordinary checkpoint
is a few long ranges. Ranges are cut into pieces, each of which is fetched, retried and remembered by itself.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Iterable, Iterator

from milliner.model.sources import layout

PIECE_BYTES = 64 << 20  # arbitrary: seconds of a fast link, a minute of a slow one
_ALIGNMENT = 8  # safetensors pads its header so that the data begins at a multiple of this


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Bytes [begin, end) of the source's `file`, to be written at offset `at`."""

    file: str
    begin: int
    end: int
    at: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


@dataclasses.dataclass(frozen=True, slots=True)
class FilePlan:
    """A file to make: `head` are its first bytes, made here; the pieces are the rest, of `num_bytes` in all."""

    head: bytes
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        """What is to be fetched."""
        return sum(piece.num_bytes for piece in self.pieces)

    @property
    def size_bytes(self) -> int:
        return len(self.head) + self.num_bytes


def whole_file(name: str, size_bytes: int, *, piece_bytes: int = PIECE_BYTES) -> FilePlan:
    """A copy of a file."""
    return FilePlan(head=b"", pieces=tuple(_cut(Piece(name, 0, size_bytes, at=0), piece_bytes)))


def safetensors_file(tensors: Iterable[layout.StoredTensor], *, piece_bytes: int = PIECE_BYTES) -> FilePlan:
    """A safetensors file with these tensors alone."""
    ordered = sorted(tensors, key=lambda tensor: (tensor.file, tensor.begin, tensor.name))
    head = _header(ordered)
    runs: list[Piece] = []
    at = len(head)
    for tensor in ordered:
        last = runs[-1] if runs else None
        if last is not None and last.file == tensor.file and last.end == tensor.begin:
            runs[-1] = dataclasses.replace(last, end=tensor.end)
        else:
            runs.append(Piece(tensor.file, tensor.begin, tensor.end, at=at))
        at += tensor.num_bytes
    return FilePlan(head=head, pieces=tuple(piece for run in runs for piece in _cut(run, piece_bytes)))


def _header(tensors: Iterable[layout.StoredTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        offsets = [at, at + tensor.num_bytes]
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        at += tensor.num_bytes
    content = json.dumps(entries, separators=(",", ":")).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    return struct.pack("<Q", len(content)) + content


def _cut(run: Piece, piece_bytes: int) -> Iterator[Piece]:
    for begin in range(run.begin, run.end, piece_bytes):
        end = min(begin + piece_bytes, run.end)
        yield Piece(run.file, begin, end, at=run.at + begin - run.begin)
