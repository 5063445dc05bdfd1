"""Writes a slice of a checkpoint as a checkpoint folder of its own: what a device stores instead of the whole model.

The folder holds the slice's tensors under their own names, the model's configuration with the slice's bounds and the
whole model's digest (`checkpoint.HeldSlice`), and the tokenizer if it holds the embedding. `Checkpoint.open` and
`load_slice` take it wherever the whole model would do, within its bounds. Called by `milliner slice`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
import torch

from milliner.core import errors
from milliner.model import checkpoint as checkpoints
from milliner.model import decoder, digest, weights
from milliner.model import slice as slices

# Tensors of one file are in memory together while it is written. Arbitrary; checkpoints use up to ten times as much.
MAX_FILE_BYTES = 512 * 2**20

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclasses.dataclass(frozen=True, slots=True)
class WrittenSlice:
    """What was written, and how large the whole model is beside it."""

    path: Path
    spec: slices.SliceSpec
    num_tensors: int
    num_bytes: int
    num_model_tensors: int
    model_digest: str


def write_slice(
    checkpoint: checkpoints.Checkpoint,
    spec: slices.SliceSpec,
    out: Path,
    *,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> WrittenSlice:
    """Writes `spec` of a checkpoint to the folder `out`; `on_bytes(done, total)` is called as files are finished.

    The folder appears under its name only when it is complete. Raises `SplitOutsideModel` for bounds that the model
    does not have, `CheckpointError` for a defective model or when `out` exists and is not empty.
    """
    checkpoint.check_holds(start=spec.start, end=spec.end, embedding=spec.embedding, lm_head=spec.lm_head)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise errors.CheckpointError("exists and is not empty: remove it or name another folder", field=str(out))
    names = tensor_names(checkpoint, spec)
    held = checkpoints.HeldSlice(
        start=spec.start,
        end=spec.end,
        embedding=spec.embedding,
        lm_head=spec.lm_head,
        parent_digest=digest.model_digest(checkpoint.path),
    )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_config(checkpoint.path, partial, held)
        num_bytes = _write_tensors(checkpoint, names, partial, on_bytes)
        if spec.embedding:
            _copy_tokenizer(checkpoint.path, partial)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:  # an interrupt too must not leave gigabytes behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return WrittenSlice(
        path=out,
        spec=spec,
        num_tensors=len(names),
        num_bytes=num_bytes,
        num_model_tensors=len(checkpoint.files),
        model_digest=held.parent_digest,
    )


def tensor_names(checkpoint: checkpoints.Checkpoint, spec: slices.SliceSpec) -> list[str]:
    """The stored tensors that a slice needs, in the order of their names; raises `CheckpointError` if one is absent."""
    scaffold = decoder.Scaffold(checkpoint.config)
    reader = weights.WeightReader(checkpoint, dtype=torch.float32, torch_device=torch.device("meta"))
    parts: list[tuple[torch.nn.Module, str]] = []
    with torch.device("meta"):
        parts += [(scaffold.build_layer(i), reader.layer_prefix(i)) for i in range(spec.start, spec.end)]
    if spec.embedding:
        parts.append((scaffold.embed_tokens, reader.embedding_prefix))
    if spec.lm_head:
        parts += [(scaffold.norm, reader.norm_prefix), (scaffold.lm_head, reader.lm_head_source)]
    return sorted(
        {
            name
            for module, prefix in parts
            for groups in reader.sources(module, prefix).values()
            for group in groups
            for name in group
        }
    )


def _write_tensors(
    checkpoint: checkpoints.Checkpoint, names: list[str], folder: Path, on_bytes: Callable[[int, int], None]
) -> int:
    """Writes one file, or numbered files with an index where one would pass `MAX_FILE_BYTES`; returns the bytes."""
    tensors = checkpoint.read(names)  # memory-mapped: nothing is read yet
    total = sum(tensor.nbytes for tensor in tensors.values())
    files = list(_grouped(tensors))
    done = 0
    weight_map: dict[str, str] = {}
    for number, group in enumerate(files, start=1):
        single = len(files) == 1
        name = checkpoints.WEIGHTS_FILE if single else f"model-{number:05d}-of-{len(files):05d}.safetensors"
        content = {tensor_name: tensors.pop(tensor_name).contiguous() for tensor_name in group}
        safetensors.torch.save_file(content, folder / name, metadata={"format": "pt"})
        shutil.copymode(folder / checkpoints.CONFIG_FILE, folder / name)  # safetensors hides files from other users
        weight_map.update(dict.fromkeys(group, name))
        done += sum(tensor.nbytes for tensor in content.values())
        on_bytes(done, total)
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / checkpoints.INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def _grouped(tensors: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    """Consecutive names whose tensors fit a file together; at least one group, even without a tensor."""
    group: list[str] = []
    group_bytes = 0
    for name, tensor in tensors.items():
        if group and group_bytes + tensor.nbytes > MAX_FILE_BYTES:
            yield group
            group, group_bytes = [], 0
        group.append(name)
        group_bytes += tensor.nbytes
    yield group


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_config(source: Path, folder: Path, held: checkpoints.HeldSlice) -> None:
    raw = checkpoints.read_json(source / checkpoints.CONFIG_FILE, remedy="a checkpoint folder needs it")
    raw[checkpoints.SLICE_KEY] = dataclasses.asdict(held)
    (folder / checkpoints.CONFIG_FILE).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
