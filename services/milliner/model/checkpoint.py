"""A Hugging Face checkpoint folder: its configuration, and any of its tensors without reading the others.

Takes `config.json` and `model.safetensors`, or `model.safetensors.index.json` with its shards; also folders that
`slice_writer` wrote, which hold only part of a model. Tensors are memory-mapped. Every defect of the folder raises
`CheckpointError` with the file or tensor as its field, and what to do.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers

from milliner.core import errors
from milliner.model import families
from milliner.model.sources import layout

CONFIG_FILE = layout.CONFIG_FILE
WEIGHTS_FILE = layout.WEIGHTS_FILE
INDEX_FILE = layout.INDEX_FILE
SLICE_KEY = layout.SLICE_KEY

# Where text models keep their decoder, from plain to multi-modal checkpoints (Gemma 3 in old and new spelling).
DECODER_PREFIXES = ("model.", "language_model.model.", "model.language_model.")


@dataclasses.dataclass(frozen=True, slots=True)
class HeldSlice:
    """The part of a model that a slice folder holds, and the digest of the whole.

    Layers [start, end), and from `tail_start` to the last where that is not None.
    """

    start: int
    end: int
    embedding: bool
    lm_head: bool
    parent_digest: str
    tail_start: int | None = None

    def has_layers(self, start: int, end: int) -> bool:
        """Whether layers [start, end) of the model are here."""
        in_tail = self.tail_start is not None and self.tail_start <= start
        return start == end or in_tail or (self.start <= start and end <= self.end)


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened folder. `config` is the text part's configuration; `files` maps each tensor to its file.

    `held` is None for a whole model. `prefix` is what the decoder's tensor names begin with (`model.`).
    """

    path: Path
    config: transformers.PretrainedConfig
    files: Mapping[str, Path]
    prefix: str
    held: HeldSlice | None

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Reads the configuration and the list of tensors.

        Raises `CheckpointError` for unreadable folders, `UnsupportedModel` for families that cannot be sliced.
        """
        if not path.is_dir():
            raise errors.CheckpointError("no such folder: give the folder that holds config.json", field=str(path))
        return cls.described(path, tensor_files)

    @classmethod
    def described(cls, path: Path, find_files: Callable[[Path], Mapping[str, Path]]) -> Checkpoint:
        """As `open`, with the tensors' files as `find_files(path)` tells: they need not be there to be planned with."""
        raw = read_json(path / CONFIG_FILE, remedy="a checkpoint folder needs it; download the model again")
        config = _text_config(path, raw)
        families.check(config)
        files = find_files(path)
        return cls(path=path, config=config, files=files, prefix=_decoder_prefix(files), held=held_slice(raw))

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def max_positions(self) -> int:
        """The context that is computed exactly, in positions."""
        return families.max_positions(self.config)

    @property
    def tensor_names(self) -> frozenset[str]:
        return frozenset(self.files)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, on the CPU, memory-mapped: pages are read when they are touched."""
        wanted_names = list(names)
        self.check_present(wanted_names)
        by_file: dict[Path, list[str]] = {}
        for name in wanted_names:
            by_file.setdefault(self.files[name], []).append(name)
        tensors: dict[str, torch.Tensor] = {}
        for file, wanted in by_file.items():
            with opened(file) as content:
                present = set(content.keys())
                for name in wanted:
                    if name not in present:
                        raise errors.CheckpointError(
                            f"{INDEX_FILE} places it in {file.name}, which does not have it: download both again",
                            field=name,
                        )
                    tensors[name] = content.get_tensor(name)
        return tensors

    def check_present(self, names: Iterable[str]) -> None:
        """Raises `CheckpointError` for the first name that no file of the folder has."""
        missing = sorted(set(names) - self.files.keys())
        if missing:
            raise errors.CheckpointError(
                f"the tensor is in no file of {self.path}: the checkpoint is incomplete, download it again",
                field=missing[0],
            )

    def check_holds(self, *, start: int, end: int, embedding: bool, lm_head: bool) -> None:
        """Raises `SplitOutsideModel` unless the folder has layers [start, end) and the ends that are asked for."""
        if not 0 <= start <= end <= self.num_layers:
            raise errors.SplitOutsideModel(
                f"layers [{start}, {end}) are not in the model, which has {self.num_layers}: "
                f"use 0 <= start <= end <= {self.num_layers}",
                field="layers",
            )
        held = self.held
        if held is None:
            return
        if not held.has_layers(start, end):
            raise errors.SplitOutsideModel(
                f"{self.path} holds layers [{held.start}, {held.end}) and [{start}, {end}) is asked for: "
                "write a slice with these bounds from the whole model",
                field="layers",
            )
        for name, wanted, has in (("embedding", embedding, held.embedding), ("lm_head", lm_head, held.lm_head)):
            if wanted and not has:
                raise errors.SplitOutsideModel(
                    f"{self.path} was written without the {name}: write the slice again with it", field=name
                )


def read_json(path: Path, *, remedy: str) -> dict[str, Any]:
    """The JSON object in a file; raises `CheckpointError` with the file's name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise errors.CheckpointError(f"no such file in {path.parent}: {remedy}", field=path.name) from None
    except (OSError, ValueError) as error:
        raise errors.CheckpointError(f"{path} cannot be read ({error}): {remedy}", field=path.name) from error
    if not isinstance(content, dict):
        raise errors.CheckpointError(f"{path} holds no JSON object: {remedy}", field=path.name)
    return content


def _text_config(path: Path, raw: dict[str, Any]) -> transformers.PretrainedConfig:
    model_type = raw.get("model_type")
    if model_type is None:
        raise errors.CheckpointError("has no field model_type: not a model's configuration", field=CONFIG_FILE)
    if model_type not in transformers.CONFIG_MAPPING:
        raise errors.UnsupportedModel(
            f"transformers {transformers.__version__} does not know model_type {model_type!r}", field=CONFIG_FILE
        )
    # Refused before it is parsed: other families' configurations fail in their own ways.
    larger = "text_config" in transformers.CONFIG_MAPPING[model_type].sub_configs
    if model_type not in families.FAMILIES and not larger:
        raise errors.UnsupportedModel(families.unknown_family(model_type), field=CONFIG_FILE)
    try:
        config: transformers.PretrainedConfig = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # validation errors of many types, all of them caused by the file
        raise errors.CheckpointError(f"is not a valid configuration: {error}", field=CONFIG_FILE) from error
    return config.get_text_config(decoder=True)


def tensor_files(path: Path) -> dict[str, Path]:
    """Each tensor of a folder with its file."""
    if (path / INDEX_FILE).exists():
        weight_map = read_json(path / INDEX_FILE, remedy="download the checkpoint again").get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise errors.CheckpointError("has no weight_map: download the checkpoint again", field=INDEX_FILE)
        missing = sorted({name for name in weight_map.values() if not (path / str(name)).is_file()})
        if missing:
            raise errors.CheckpointError(
                f"the index names this shard, which {path} does not have: download it", field=missing[0]
            )
        return {str(tensor): path / str(file) for tensor, file in weight_map.items()}
    file = path / WEIGHTS_FILE
    if not file.is_file():
        raise errors.CheckpointError(
            f"neither {WEIGHTS_FILE} nor {INDEX_FILE} is in {path}: only safetensors checkpoints can be sliced",
            field=WEIGHTS_FILE,
        )
    with opened(file) as content:
        return dict.fromkeys(content.keys(), file)


def opened(file: Path) -> Any:
    """A safetensors file whose header has been checked against its size; raises `CheckpointError` with its name."""
    try:
        return safetensors.safe_open(file, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise errors.CheckpointError(
            f"{file} is not a readable safetensors file ({error}): it is damaged or cut short, download it again",
            field=file.name,
        ) from error


def _decoder_prefix(names: Iterable[str]) -> str:
    parts = tuple(re.escape(prefix) for prefix in DECODER_PREFIXES)
    pattern = re.compile(rf"({'|'.join(parts)})(layers\.\d+|embed_tokens|norm)\.")
    found = (pattern.match(name) for name in names)
    return next((match[1] for match in found if match), DECODER_PREFIXES[0])


def held_slice(raw: dict[str, Any]) -> HeldSlice | None:
    """The slice that a raw config.json announces; None: a whole model."""
    if SLICE_KEY not in raw:
        return None
    try:
        return HeldSlice(**raw[SLICE_KEY])
    except TypeError as error:
        raise errors.CheckpointError(
            f"{SLICE_KEY} is malformed ({error}): write the slice again", field=CONFIG_FILE
        ) from error
