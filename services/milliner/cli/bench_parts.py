"""`milliner bench engine`, `acceptance`, `refine`: what the engine costs, what drafts and refined prompts are worth."""

from __future__ import annotations

import pathlib
from typing import Annotated

import rich.console
import typer

from milliner.cli import bench_options
from milliner.core import errors


def add_to(app: typer.Typer) -> None:
    """Adds the commands to `milliner bench`."""
    app.command("engine")(engine)
    app.command("acceptance")(acceptance)
    app.command("refine")(refine)


def engine(
    turns: Annotated[int, typer.Option(min=1, help="Measurements per cell and side.")] = 10,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the random model; fewer are quicker.")] = 24,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: as many as it takes by itself.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    json_file: bench_options.JsonFile = None,
) -> None:
    """Compare the cloud engine (scheduling, paging, ragged attention) with bare transformers layers.

    Both run the same random model of Qwen2-0.5B's shape on the same batch, turn by turn: a prompt of 512 tokens, and
    one token for 1 and for 16 sessions. Takes about 1.6 GB of memory and a few minutes on two cores.

    Examples:

      [bold]milliner bench engine[/bold]

      [bold]milliner bench engine --device cuda --dtype bfloat16 --turns 100 --json engine.json[/bold]
    """
    from milliner.bench import engine as engine_bench
    from milliner.bench import engine_model

    options = engine_bench.Options(
        shape=engine_model.Shape(layers=layers),
        turns=turns,
        threads=threads or None,
        torch_device=device,
        dtype=dtype,
    )
    bench_options.deliver(
        engine_bench.run(options, command=bench_options.command_line(), console=rich.console.Console()), json_file
    )


def acceptance(
    model: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="DIR", help="Another model than the demo; needs --adapter and --text."),
    ] = None,
    adapter: Annotated[
        list[pathlib.Path] | None,
        typer.Option(metavar="DIR", help="Adapter to measure; repeatable. Default: every form of the demo's."),
    ] = None,
    text: Annotated[
        list[pathlib.Path] | None, typer.Option(metavar="FILE", help="Held-out text; repeatable. Default: the demo's.")
    ] = None,
    documents: Annotated[int, typer.Option(min=1, help="Documents to draft along, one prompt from each.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the sampled answers.")] = 1,
    json_file: bench_options.JsonFile = None,
) -> None:
    """Measure how many tokens a round of drafting yields: accepted drafts + 1, at most 8 drafts, no early exit.

    Along held-out text itself, in answers sampled at temperature 0.8, and in greedy answers (which flatter: a small
    model's run into loops).

    Examples:

      [bold]milliner bench acceptance[/bold]

      [bold]milliner bench acceptance --documents 4 --json acceptance.json[/bold]
    """
    from milliner.bench import acceptance as acceptance_bench

    if model is not None and (not adapter or not text):
        raise errors.ConfigError("is needed with --model", field="--text" if adapter else "--adapter")
    options = acceptance_bench.Options(
        model=model, adapters=tuple(adapter or ()), texts=tuple(text or ()), documents=documents, seed=seed
    )
    console = rich.console.Console(stderr=True)
    with console.status("measuring") as status:
        result = acceptance_bench.run(
            options, command=bench_options.command_line(), advance=lambda what: status.update(f"done: {what}")
        )
    bench_options.deliver(result, json_file)


def refine(
    model: Annotated[
        str, typer.Option(metavar="DIR", help="builtin://recall, builtin://demo, or another, which needs --text.")
    ] = "builtin://recall",
    keep: Annotated[str, typer.Option(metavar="NUMBERS", help="Percentages of the prompt to keep.")] = "30,50,70",
    prompts: Annotated[int, typer.Option(min=2, help="Prompts to measure, of each kind.")] = 48,
    prompt_tokens: Annotated[int, typer.Option(min=16, help="Length of each prompt.")] = 512,
    text: Annotated[
        list[pathlib.Path] | None, typer.Option(metavar="FILE", help="Held-out text; repeatable. Default: the demo's.")
    ] = None,
    json_file: bench_options.JsonFile = None,
) -> None:
    """Measure what a refined prompt is worth: how well the whole prompt's answer fits behind what is kept of it.

    Beside the refiner's choice: as many positions at random, from head and tail, from the tail, and from the head.
    Prompts are held-out text as it is, and such that their answer stands somewhere in them: a passage to go on with, a
    definition that is asked for. Each of the three takes minutes on one core.

    Examples:

      [bold]milliner bench refine[/bold]

      [bold]milliner bench refine --model builtin://demo --keep 20,40 --prompts 12 --json refine.json[/bold]
    """
    from milliner.bench import refine as refine_bench
    from milliner.demo import assets

    builtin = assets.models().get(model.removeprefix("builtin://"))
    if builtin is None and not text:
        raise errors.ConfigError("is needed with another --model", field="--text")
    options = refine_bench.Options(
        model=builtin or pathlib.Path(model),
        texts=tuple(text or ()),
        keep_percents=tuple(bench_options.values("--keep", keep, int)),
        prompts=prompts,
        prompt_tokens=prompt_tokens,
    )
    console = rich.console.Console(stderr=True)
    with console.status("measuring") as status:
        result = refine_bench.run(
            options, command=bench_options.command_line(), advance=lambda what: status.update(f"done: {what}")
        )
    bench_options.deliver(result, json_file)
