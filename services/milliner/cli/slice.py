"""`milliner slice`: writes a slice of a checkpoint as its own folder. The work is `model.slice_writer`'s."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from typing import TYPE_CHECKING, Annotated

import rich.console
import rich.progress
import typer

from milliner.core import errors

if TYPE_CHECKING:
    from milliner.model import slice_writer


def slice_(
    model: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="A checkpoint folder (config.json, safetensors).")],
    layers: Annotated[str, typer.Option(metavar="A:B", help="Layers A up to, not including, B; 2: means to the end.")],
    out: Annotated[pathlib.Path, typer.Option(metavar="DIR", help="The folder to write; must not exist or be empty.")],
    embedding: Annotated[bool, typer.Option("--embedding", help="With the embedding and the tokenizer.")] = False,
    lm_head: Annotated[bool, typer.Option("--lm-head", help="With the final norm and lm_head.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write part of a model as its own checkpoint folder, so that a device never stores the middle of the model.

    The folder carries the whole model's digest: both tiers still agree on which model they split.

    For a device: [bold]milliner slice --model Qwen3-8B --layers 0:2 --embedding --lm-head --out device[/bold]

    For its cloud: [bold]milliner slice --model Qwen3-8B --layers 2: --out cloud[/bold]
    """
    from milliner.model import checkpoint as checkpoints
    from milliner.model import slice as slices
    from milliner.model import slice_writer

    opened = checkpoints.Checkpoint.open(model)
    start, end = bounds(layers, num_layers=opened.num_layers)
    spec = slices.SliceSpec(start, end, embedding=embedding, lm_head=lm_head)
    console = rich.console.Console(stderr=True)
    columns = (
        rich.progress.TextColumn("writing"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(
        *columns, console=console, transient=True, disable=as_json or not console.is_terminal
    ) as progress:
        task = progress.add_task("slice", total=None)
        written = slice_writer.write_slice(
            opened, spec, out, on_bytes=lambda done, total: progress.update(task, completed=done, total=total)
        )
    typer.echo(json.dumps(as_dict(written), indent=2) if as_json else summary(written))


def bounds(text: str, *, num_layers: int) -> tuple[int, int]:
    """`A:B` as half-open bounds; a missing A is 0, a missing B the number of layers. Raises `SplitOutsideModel`."""
    match = re.fullmatch(r"(\d*):(\d*)", text)
    if match is None:
        raise errors.SplitOutsideModel(
            f"{text!r} is not of the form A:B; write 0:2 for the first two layers of {num_layers}", field="--layers"
        )
    return int(match[1] or 0), int(match[2] or num_layers)


def summary(written: slice_writer.WrittenSlice) -> str:
    """What a person wants to read."""
    spec = written.spec
    ends = [name for name, held in (("the embedding", spec.embedding), ("lm_head", spec.lm_head)) if held]
    return (
        f"{written.path}: layers [{spec.start}, {spec.end})"
        + (f" with {' and '.join(ends)}" if ends else "")
        + f", {written.num_tensors} of {written.num_model_tensors} tensors, {written.num_bytes / 1e6:,.1f} MB\n"
        f"model {written.model_digest}"
    )


def as_dict(written: slice_writer.WrittenSlice) -> dict[str, object]:
    """What a program wants to read."""
    return {**dataclasses.asdict(written), "path": str(written.path)}
