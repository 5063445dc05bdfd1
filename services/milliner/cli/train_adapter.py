"""`milliner train-adapter`: trains the network that drafts on the device. The work is `model.drafter_training`'s."""

from __future__ import annotations

import enum
import math
import pathlib
import time
from typing import TYPE_CHECKING, Annotated, TypeVar

import rich.console
import rich.progress
import typer

from milliner.core import errors

if TYPE_CHECKING:
    from milliner.model import drafter_config, drafter_file, drafter_training

Member = TypeVar("Member", bound=enum.StrEnum)
_DIR, _FILES = "DIR", "FILE"
_BAR_COLUMNS = 8  # so that a line fits 80 columns beside its figures
_LOG_EVERY_S = 30.0  # where no bar can be drawn, as in a log file; arbitrary


def train_adapter(
    model: Annotated[pathlib.Path, typer.Option(metavar=_DIR, help="The target: a checkpoint folder.")],
    split_layer: Annotated[int, typer.Option(min=1, metavar="S", help="Layers [0, S) run on the device.")],
    text: Annotated[
        list[pathlib.Path], typer.Option(metavar="FILE...", help="UTF-8 text to train on: one or more files.")
    ],
    out: Annotated[pathlib.Path, typer.Option(metavar=_DIR, help="The folder to write.")],
    more_text: Annotated[list[pathlib.Path] | None, typer.Argument(metavar="[FILE]...", help="More text.")] = None,
    held_out: Annotated[
        list[pathlib.Path] | None,
        typer.Option(metavar=_FILES, help="Text for the figures; default: the last 3 % of the text, not trained on."),
    ] = None,
    kind: Annotated[str, typer.Option(help="adapter, or medusa: heads for the baseline U-Medusa.")] = "adapter",
    form: Annotated[str, typer.Option(help="Layer, Attention (Kangaroo's) or LayerWithDeepState.")] = "Layer",
    heads: Annotated[int, typer.Option(min=1, help="Medusa heads.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 2_000,
    max_minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after this long, well annealed.")] = None,
    batch_windows: Annotated[int, typer.Option(min=1, help="Windows of text per step.")] = 8,
    window_tokens: Annotated[int, typer.Option(min=16, help="Tokens per window.")] = 512,
    long_tokens: Annotated[int, typer.Option(min=0, help="Tokens per window in the last quarter; 0: as before.")] = 0,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-7, help="Peak learning rate of Muon; default: by the model's width.")
    ] = None,
    start: Annotated[
        pathlib.Path | None, typer.Option(metavar=_DIR, help="An adapter to start from; default: the model's layer S.")
    ] = None,
    feature_cache: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar=_FILES, help="Run the model once over --cached-tokens tokens, keep its hidden states here."
        ),
    ] = None,
    cached_tokens: Annotated[int, typer.Option(min=1, help="Tokens in --feature-cache.")] = 1_000_000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights and windows.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
) -> None:
    """Train an adapter or Medusa heads for a model, from plain text. Only the drafter's weights change.

    The folder carries the model's digest, the split layer and how well it drafts on held-out text; it is refused beside
    any other model.

    Examples:

      [bold]milliner train-adapter --model Qwen3-8B --split-layer 2 --text book.txt --out adapter[/bold]

      [bold]milliner train-adapter --model Qwen3-8B --split-layer 2 --text a.txt --text b.txt --form LayerWithDeepState
      --device cuda --steps 20000 --out adapter --resume[/bold]

      [bold]milliner train-adapter --model Qwen3-8B --split-layer 2 --text book.txt --kind medusa --out heads[/bold]
    """
    from milliner.model import adapter, drafter_config, drafter_file

    config = drafter_config.TrainingConfig(
        model=model,
        split_layer=split_layer,
        text=(*text, *(more_text or ())),
        held_out=tuple(held_out or ()),
        out=out,
        kind=_member(drafter_file.DrafterKind, kind, option="--kind"),
        form=_member(adapter.AdapterForm, form, option="--form"),
        num_heads=heads,
        steps=steps,
        max_minutes=max_minutes,
        batch_windows=batch_windows,
        window_tokens=window_tokens,
        long_tokens=long_tokens,
        learning_rate=learning_rate,
        start=start,
        feature_cache=feature_cache,
        cached_tokens=cached_tokens,
        torch_device=device,
        seed=seed,
        resume=resume,
    )
    typer.echo(_summary(out, _with_bar(config)))


def _member(kinds: type[Member], text: str, *, option: str) -> Member:
    """The member of that name, in any case. Raises `ConfigError` naming the option and the choices."""
    for member in kinds:
        if member.value.lower() == text.lower():
            return member
    raise errors.ConfigError(f"{text!r} is unknown: use {', '.join(kinds)}", field=option)


def _with_bar(config: drafter_config.TrainingConfig) -> drafter_file.Card:
    from milliner.model import drafter_training

    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(bar_width=_BAR_COLUMNS),
        rich.progress.TaskProgressColumn(),
        rich.progress.TextColumn("{task.fields[eta]}"),
    )
    console = rich.console.Console(stderr=True, highlight=False)
    with rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading text", total=1.0, eta="")
        told_s = -math.inf

        def show(words: str, *, share: float, eta: str = "") -> None:
            nonlocal told_s
            bar.update(task, completed=share, eta=eta, description=words)
            if bar.disable and (time.monotonic() - told_s >= _LOG_EVERY_S or share in (0.0, 1.0)):
                told_s = time.monotonic()
                console.print(f"{share:.0%} · {words}" + (f" · {eta}" if eta else ""), soft_wrap=True)

        def report(progress: drafter_training.TrainingProgress) -> None:
            minutes, seconds = divmod(round(progress.eta_s), 60)
            show(
                f"step {progress.step} · loss {progress.loss:.3f} · accepted {progress.expected_acceptance:.0%} · "
                f"{progress.tokens_per_s:,.0f} tokens/s",
                share=progress.share,
                eta=f"{minutes}:{seconds:02d} left",
            )

        def show_measuring(share: float) -> None:
            show("trained; measuring on held-out text", share=share)

        return drafter_training.train(config, report, on_measuring=show_measuring)


def _summary(out: pathlib.Path, card: drafter_file.Card) -> str:
    from milliner.model import drafter_file

    figures = card.figures
    assert figures is not None, "training ends with figures"
    strategy = f"{{type: Hat, hat: {{adapter: {{source: {out}}}}}}}"
    if card.kind is drafter_file.DrafterKind.MEDUSA:
        strategy = f"{{type: UShape, uShape: {{heads: {{source: {out}}}}}}}"
    return (
        f"{out}: {card.kind.value} {card.form}, split layer {card.split_layer}, {card.steps} steps\n"
        f"held-out text: greedy agreement {figures.greedy_agreement:.3f}, expected acceptance "
        f"{figures.expected_acceptance:.3f}, acceptance length {figures.acceptance_length:.2f}"
        f"\nnext, in a topology for milliner up -f: strategy: {strategy}"
    )
