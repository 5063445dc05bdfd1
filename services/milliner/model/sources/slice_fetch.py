"""Fetches a slice of a model: a folder as `slice_writer` writes it, of which nothing else ever crosses the network.

Small files first, then the files' headers; from these the family's own layers tell which tensors they need. Of the
weights only these are fetched. Imports torch, for modules without weights.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

from milliner.model import checkpoint as checkpoints
from milliner.model import slice as slices
from milliner.model import slice_writer
from milliner.model.sources import cached, filling, folders, identity, layout, slice_plan, tokenizer_fetch

_FORM = 1  # of the folder; a change makes caches invalid


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WantedSlice:
    """Layers [start, end) with or without the ends; with `tail_start`, also the layers from there to the last.

    `digest` and `fingerprint` are those that an inspection of the whole source found.
    """

    start: int
    end: int
    embedding: bool
    lm_head: bool
    tail_start: int | None = None
    digest: str
    fingerprint: str


def fetch_slice(
    folder: folders.Folder,
    wanted: WantedSlice,
    out: pathlib.Path,
    *,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> bool:
    """Makes sure that `out` holds the slice; returns False where it was there already.

    Raises `SourceError` where the source has not what is needed or is not what was inspected, `UnavailableError` where
    it cannot be reached, `SplitOutsideModel`, `UnsupportedModel`, `CheckpointError` for what the model does not have.
    """
    key: dict[str, object] = {"form": _FORM, "source": folder.where, **dataclasses.asdict(wanted)}
    return cached.cached(out, key, lambda partial: _make(folder, wanted, partial, on_bytes))


def _make(
    folder: folders.Folder, wanted: WantedSlice, partial: pathlib.Path, on_bytes: Callable[[int, int], None]
) -> None:
    model = layout.read(folder)
    identity.check_fingerprint(folder, model, expected=wanted.fingerprint, digest=wanted.digest)
    layout.check_whole(folder, model)
    _write_config(partial, model, held=None)
    tensors = [model.tensors[name] for name in _tensor_names(partial, model, wanted)]
    if wanted.embedding:
        tokenizer_fetch.write_files(folder, partial)
    plan = slice_plan.safetensors_file(tensors)
    filling.fill(partial / checkpoints.WEIGHTS_FILE, plan, folder, on_bytes=on_bytes)
    held = checkpoints.HeldSlice(
        start=wanted.start,
        end=wanted.end,
        embedding=wanted.embedding,
        lm_head=wanted.lm_head,
        parent_digest=wanted.digest,
        tail_start=wanted.tail_start,
    )
    _write_config(partial, model, held=held)


def _tensor_names(partial: pathlib.Path, model: layout.ModelLayout, wanted: WantedSlice) -> list[str]:
    described = checkpoints.Checkpoint.described(
        partial, lambda path: {name: path / tensor.file for name, tensor in model.tensors.items()}
    )
    specs = [slices.SliceSpec(wanted.start, wanted.end, embedding=wanted.embedding, lm_head=wanted.lm_head)]
    if wanted.tail_start is not None:
        specs.append(slices.SliceSpec(wanted.tail_start, described.num_layers, embedding=False, lm_head=False))
    for spec in specs:
        described.check_holds(start=spec.start, end=spec.end, embedding=spec.embedding, lm_head=spec.lm_head)
    return sorted({name for spec in specs for name in slice_writer.tensor_names(described, spec)})


def _write_config(partial: pathlib.Path, model: layout.ModelLayout, *, held: checkpoints.HeldSlice | None) -> None:
    raw = dict(model.raw_config)
    if held is not None:
        raw[checkpoints.SLICE_KEY] = dataclasses.asdict(held)
    (partial / checkpoints.CONFIG_FILE).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
