"""`milliner bench`: the strategies side by side on an emulated link, the engine's overhead, the drafter's acceptance.

Every bench prints a table and, with `--json FILE`, writes the report of `bench.report`. The benches themselves are in
`milliner.bench`; they are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import pathlib
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, TypeVar

import rich.console
import typer

from milliner.bench import plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from milliner.bench import report

T = TypeVar("T")

STRATEGIES = ",".join(plan.StrategyName)
app = typer.Typer(name="bench", rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})

JsonFile = Annotated[
    pathlib.Path | None, typer.Option("--json", metavar="FILE", help="Write the report there as JSON too.")
]


@app.callback(invoke_without_command=True)
def strategies(
    context: typer.Context,
    preset: Annotated[str, typer.Option(help="The emulated world: link, device and cloud.")] = "paper-wifi",
    strategies: Annotated[
        str, typer.Option(metavar="NAMES", help="What to compare, comma-separated.", show_default=True)
    ] = STRATEGIES,
    codecs: Annotated[str, typer.Option(metavar="NAMES", help="Codecs of the prompt: float16, int8, int4, …")] = (
        "float16,int8,int4"
    ),
    prompt_tokens: Annotated[str, typer.Option(metavar="NUMBERS", help="Prompt lengths in tokens.")] = "128,512,2048",
    temperatures: Annotated[str, typer.Option(metavar="NUMBERS", help="0 is greedy.")] = "0,0.8",
    new_tokens: Annotated[int, typer.Option(help="Length of each answer in tokens.")] = 64,
    requests: Annotated[int, typer.Option("--requests", "-n", help="Requests per cell, each with its own prompt.")] = 3,
    time_scale: Annotated[
        float, typer.Option(help="Slow link and compute alike by this factor, where rows come out invalid.")
    ] = 1.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="One request per cell, 512 tokens, float16 and greedy only: a minute.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Compare strategies on the same prompts, real processes, link and compute emulated as the preset says.

    Rows whose real compute took longer than the emulated one in more than 1 % of the calls are marked invalid: slow
    everything with [bold]--time-scale 2[/bold] then; ratios hold.

    Examples:

      [bold]milliner bench --preset paper-wifi[/bold]

      [bold]milliner bench --quick --strategies UShape,Hat[/bold]

      [bold]milliner bench --codecs float16,int4 --prompt-tokens 2048 --json bench.json[/bold]
    """
    if context.invoked_subcommand is not None:
        return
    if quick:
        requests, prompt_tokens, codecs, temperatures = 1, "512", "float16", "0"
    run_plan = plan.Plan(
        strategies=_list("--strategies", strategies, _strategy),
        codecs=_list("--codecs", codecs, str),
        prompt_tokens=_list("--prompt-tokens", prompt_tokens, int),
        temperatures=_list("--temperatures", temperatures, float),
        requests=requests,
        new_tokens=new_tokens,
    )
    from milliner.bench import paper_wifi

    _deliver(
        paper_wifi.run(
            run_plan, preset_name=preset, time_scale=time_scale, command=_command(), console=rich.console.Console()
        ),
        json_file,
    )


@app.command("engine")
def engine(
    turns: Annotated[int, typer.Option(min=1, help="Measurements per cell and side.")] = 10,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the random model; fewer are quicker.")] = 24,
    threads: Annotated[int, typer.Option(min=0, help="Threads of torch; 0: as many as it takes by itself.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    json_file: JsonFile = None,
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
    _deliver(engine_bench.run(options, command=_command(), console=rich.console.Console()), json_file)


def _strategy(name: str) -> plan.StrategyName:
    return {known.lower(): known for known in plan.StrategyName}[name.lower()]


def _list(option: str, text: str, read: Callable[[str], T]) -> list[T]:
    """The comma-separated values of an option. Raises `plan.PlanError` naming the one that cannot be read."""
    values: list[T] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            values.append(read(part))
        except (KeyError, ValueError):
            known = f": use {', '.join(plan.StrategyName)}" if option == "--strategies" else ": a number is needed"
            raise plan.PlanError(f"cannot read {part!r}{known}", field=option) from None
    return values


def _command() -> str:
    """The command line as it was typed, for the report."""
    return shlex.join(["milliner", *sys.argv[1:]])


def _deliver(result: report.Report, json_file: pathlib.Path | None) -> None:
    result.print(rich.console.Console())
    if json_file is not None:
        result.write_json(json_file)
