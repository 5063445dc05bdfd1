"""What a checkpoint folder holds, from config.json, the index and the headers of its safetensors files alone.

A safetensors file: eight bytes with the header's length (little-endian), the header (JSON: name -> dtype, shape,
offsets into the data), the data. All of it comes from a file that others wrote, so all of it is checked.
"""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from milliner.core import errors
from milliner.model.sources import folders

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SLICE_KEY = "milliner_slice"  # in config.json of a folder that holds a slice
LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # what the safetensors library takes
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\.safetensors")


@dataclasses.dataclass(frozen=True, slots=True)
class StoredTensor:
    """Bytes [begin, end) of `file`, counted from the file's start; `dtype` as safetensors spells it (`BF16`)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    begin: int
    end: int

    @property
    def num_bytes(self) -> int:
        return self.end - self.begin


@dataclasses.dataclass(frozen=True, slots=True)
class ModelLayout:
    """`raw_config` is config.json; `files` and `tensors` are all of the folder's, by name."""

    raw_config: Mapping[str, Any]
    files: Mapping[str, folders.FileStat]
    tensors: Mapping[str, StoredTensor]

    @property
    def num_bytes(self) -> int:
        """The bytes of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def read(folder: folders.Folder) -> ModelLayout:
    """Reads a model's layout; raises `SourceError` (*expected*) where the folder holds no safetensors checkpoint."""
    raw_config = read_json(folder, CONFIG_FILE, remedy="name a folder with a Hugging Face checkpoint")
    stats: dict[str, folders.FileStat] = {}
    tensors: dict[str, StoredTensor] = {}
    for name in weight_files(folder):
        stats[name] = folder.stat(name)
        tensors.update((tensor.name, tensor) for tensor in read_header(folder, name, stats[name]))
    return ModelLayout(raw_config=raw_config, files=stats, tensors=tensors)


def check_whole(folder: folders.Folder, model: ModelLayout) -> None:
    """Raises `SourceError` (*expected*) for the folder of a slice."""
    if SLICE_KEY in model.raw_config:
        raise errors.SourceError(
            f"{folder.where} holds a slice of a model: name the whole model, of which each tier takes its part",
            field=folder.field,
        )


def weight_files(folder: folders.Folder) -> tuple[str, ...]:
    """The names of the folder's safetensors files, in order."""
    content = folder.read(INDEX_FILE)
    if content is None:
        return (WEIGHTS_FILE,)
    index = _parsed(folder, INDEX_FILE, content, remedy="upload the checkpoint again")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _defect(folder, INDEX_FILE, "has no weight_map: upload the checkpoint again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if _FILE_NAME.fullmatch(name) is None:
            raise _defect(folder, INDEX_FILE, f"names the file {name!r}, which is no file of the folder")
    return tuple(names)


def read_header(folder: folders.Folder, name: str, stat: folders.FileStat) -> Iterable[StoredTensor]:
    """The tensors of one safetensors file, in the order of the header."""
    if stat.size_bytes < LENGTH_BYTES:
        raise _defect(folder, name, f"has {stat.size_bytes} bytes: it is cut short, upload it again")
    (length,) = struct.unpack("<Q", _bytes(folder, name, 0, LENGTH_BYTES))
    data_start = LENGTH_BYTES + length
    if length > _MOST_HEADER_BYTES or data_start > stat.size_bytes:
        raise _defect(folder, name, "does not begin like a safetensors file: only safetensors checkpoints can be used")
    try:
        header = json.loads(_bytes(folder, name, LENGTH_BYTES, data_start))
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise _defect(folder, name, "has a header that is not JSON: it is damaged, upload it again")
    header.pop("__metadata__", None)
    return [_tensor(folder, name, stat, tensor, entry, data_start) for tensor, entry in header.items()]


def read_json(folder: folders.Folder, name: str, *, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of a folder; raises `SourceError` naming it."""
    content = folder.read(name)
    if content is None:
        raise errors.SourceError(f"there is no {name} at {folder.where}: {remedy}", field=folder.field)
    return _parsed(folder, name, content, remedy=remedy)


def _parsed(folder: folders.Folder, name: str, content: bytes, *, remedy: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        raise _defect(folder, name, f"is not JSON: {remedy}") from None
    if not isinstance(document, dict):
        raise _defect(folder, name, f"holds no JSON object: {remedy}")
    return document


def _tensor(
    folder: folders.Folder, file: str, stat: folders.FileStat, name: str, entry: Any, data_start: int
) -> StoredTensor:
    try:
        begin, end = (data_start + int(offset) for offset in entry["data_offsets"])
        tensor = StoredTensor(
            name=name,
            dtype=str(entry["dtype"]),
            shape=tuple(int(size) for size in entry["shape"]),
            file=file,
            begin=begin,
            end=end,
        )
    except (TypeError, KeyError, ValueError):
        raise _defect(folder, file, f"describes tensor {name!r} wrongly: it is damaged, upload it again") from None
    if not data_start <= begin <= end <= stat.size_bytes:
        raise _defect(folder, file, f"ends before tensor {name!r} does: it is cut short, upload it again")
    return tensor


def _bytes(folder: folders.Folder, name: str, begin: int, end: int) -> bytes:
    return b"".join(folder.stream(name, begin, end))


def _defect(folder: folders.Folder, name: str, message: str) -> errors.SourceError:
    return errors.SourceError(f"{name} at {folder.where} {message}", field=folder.field)
