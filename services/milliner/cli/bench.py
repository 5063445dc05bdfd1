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
from milliner.core import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from milliner.bench import paper_wifi, report

T = TypeVar("T")

STRATEGIES = ",".join(plan.StrategyName)
app = typer.Typer(name="bench", rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})


def _writable(path: pathlib.Path | None) -> pathlib.Path | None:
    """Refuses what could not be written before anything is measured."""
    if path is not None:
        from milliner.bench import report

        report.check_writable(path)
    return path


JsonFile = Annotated[
    pathlib.Path | None,
    typer.Option("--json", metavar="FILE", help="Write the report there as JSON too.", callback=_writable),
]
Preset = Annotated[str, typer.Option(help="The emulated world: paper-wifi (Hat), or pd (P/D-Device).")]
Strategies = Annotated[str, typer.Option(metavar="NAMES", help="What to compare, comma-separated.", show_default=True)]
Codecs = Annotated[str, typer.Option(metavar="NAMES", help="Codecs of the prompt: float16, int8, int4, …")]
PromptTokens = Annotated[str, typer.Option(metavar="NUMBERS", help="Prompt lengths in tokens.")]
Temperatures = Annotated[str, typer.Option(metavar="NUMBERS", help="0 is greedy.")]
NewTokens = Annotated[int, typer.Option(help="Length of each answer in tokens.")]
Requests = Annotated[int, typer.Option("--requests", "-n", help="Requests per cell, each with its own prompt.")]
TimeScale = Annotated[
    float, typer.Option(help="Slow link and compute alike by this factor, where rows come out invalid.")
]
Quick = Annotated[
    bool, typer.Option("--quick", help="One request per cell, 512 tokens, float16 and greedy only: a minute.")
]
Modelled = Annotated[
    bool, typer.Option("--modelled", help="In virtual time over a modelled device and cloud: seconds, greedy only.")
]
VirtualTime = Annotated[
    bool,
    typer.Option(
        "--virtual-time", help="The real model, computed here; every duration the preset's, whatever the machine."
    ),
]
Agreement = Annotated[
    float, typer.Option(help="With --modelled: how often the drafter's first choice is the target's.")
]
Model = Annotated[
    pathlib.Path | None, typer.Option(metavar="DIR", help="Another model than the demo; needs --adapter and --text.")
]
Adapter = Annotated[pathlib.Path | None, typer.Option(metavar="DIR", help="Its adapter.")]
Medusa = Annotated[pathlib.Path | None, typer.Option(metavar="DIR", help="Its Medusa heads, for UMedusa.")]
Text = Annotated[
    list[pathlib.Path] | None, typer.Option(metavar="FILE", help="Text that prompts are cut from; repeatable.")
]


@app.callback(invoke_without_command=True)
def strategies(
    context: typer.Context,
    preset: Preset = "paper-wifi",
    strategies: Strategies = STRATEGIES,
    codecs: Codecs = "float16,int8,int4",
    prompt_tokens: PromptTokens = "128,512,2048",
    temperatures: Temperatures = "0,0.8",
    new_tokens: NewTokens = 64,
    requests: Requests = 3,
    time_scale: TimeScale = 1.0,
    quick: Quick = False,
    modelled: Modelled = False,
    virtual_time: VirtualTime = False,
    agreement: Agreement = 0.77,
    model: Model = None,
    adapter: Adapter = None,
    medusa: Medusa = None,
    text: Text = None,
    json_file: JsonFile = None,
) -> None:
    """Compare strategies on the same prompts, real processes, link and compute emulated as the preset says.

    Rows whose real compute took longer than the emulated one in more than 1 % of the calls are marked invalid: slow
    everything with [bold]--time-scale 2[/bold] then; ratios hold.

    Examples:

      [bold]milliner bench --preset paper-wifi[/bold]

      [bold]milliner bench --quick --strategies UShape,Hat[/bold]

      [bold]milliner bench --codecs float16,int4 --prompt-tokens 2048 --json bench.json[/bold]

      [bold]milliner bench --modelled --agreement 0.8 --requests 20[/bold]

      [bold]milliner bench --virtual-time --codecs float16 --prompt-tokens 512 --requests 10[/bold]

      [bold]milliner bench --preset pd --quick[/bold]   (P/D-Device; its own cells)
    """
    if context.invoked_subcommand is not None:
        return
    if preset == "pd":
        _deliver(_run_pd(requests=requests, quick=quick, time_scale=time_scale), json_file)
        return
    if quick:
        requests, prompt_tokens, codecs, temperatures = 1, "512", "float16", "0"
    if modelled and virtual_time:
        raise errors.ConfigError("is something else than --modelled: choose one of them", field="--virtual-time")
    if modelled:
        temperatures = "0"
    run_plan = plan.Plan(
        strategies=_list("--strategies", strategies, _strategy),
        codecs=_list("--codecs", codecs, str),
        prompt_tokens=_list("--prompt-tokens", prompt_tokens, int),
        temperatures=_list("--temperatures", temperatures, float),
        requests=requests,
        new_tokens=new_tokens,
    )
    if modelled:
        from milliner.bench import paper_wifi_modelled

        result = paper_wifi_modelled.run(run_plan, preset_name=preset, agreement=agreement, command=_command())
    else:
        run_inputs = _inputs(model, adapter=adapter, medusa=medusa, texts=text or [])
        result = _run_real(
            run_plan, preset=preset, time_scale=None if virtual_time else time_scale, run_inputs=run_inputs
        )
    _deliver(result, json_file)


def _run_pd(*, requests: int, quick: bool, time_scale: float) -> report.Report:
    """P/D-Device beside DeviceOnly and CloudOnly; its cells are its own."""
    from milliner.bench import paper_wifi, pd

    found = paper_wifi.demo_inputs()
    return pd.run(
        model=found.files.model,
        texts=found.texts,
        requests=requests,
        quick=quick,
        time_scale=time_scale,
        command=_command(),
        console=rich.console.Console(stderr=True),
    )


def _run_real(
    run_plan: plan.Plan, *, preset: str, time_scale: float | None, run_inputs: paper_wifi.Inputs | None
) -> report.Report:
    """A real model's strategies: real processes slowed by `time_scale`, or in virtual time where it is None."""
    console = rich.console.Console(stderr=True)
    if time_scale is None:
        from milliner.bench import paper_wifi_virtual

        return paper_wifi_virtual.run(
            run_plan, preset_name=preset, command=_command(), console=console, run_inputs=run_inputs
        )
    from milliner.bench import paper_wifi

    return paper_wifi.run(
        run_plan,
        preset_name=preset,
        time_scale=time_scale,
        command=_command(),
        console=console,
        run_inputs=run_inputs,
    )


def _inputs(
    model: pathlib.Path | None,
    *,
    adapter: pathlib.Path | None,
    medusa: pathlib.Path | None,
    texts: list[pathlib.Path],
) -> paper_wifi.Inputs | None:
    """The user's own model, or None for the demo. Raises `ConfigError` where only part of it is named."""
    from milliner.bench import paper_wifi

    if model is None:
        for option, given in (("--adapter", adapter), ("--medusa", medusa), ("--text", texts or None)):
            if given is not None:
                raise errors.ConfigError("belongs to --model DIR: name both", field=option)
        return None
    if adapter is None or not texts:
        missing = "--adapter" if adapter is None else "--text"
        raise errors.ConfigError("is needed with --model", field=missing)
    return paper_wifi.inputs(model=model, adapter=adapter, medusa=medusa, texts=texts)


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


@app.command("acceptance")
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
    json_file: JsonFile = None,
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
        result = acceptance_bench.run(options, command=_command(), advance=lambda what: status.update(f"done: {what}"))
    _deliver(result, json_file)


@app.command("refine")
def refine(
    model: Annotated[
        pathlib.Path | None, typer.Option(metavar="DIR", help="Another model than the demo; needs --text.")
    ] = None,
    keep: Annotated[str, typer.Option(metavar="NUMBERS", help="Percentages of the prompt to keep.")] = "30,50,70",
    prompts: Annotated[int, typer.Option(min=2, help="Prompts to measure.")] = 24,
    prompt_tokens: Annotated[int, typer.Option(min=16, help="Length of each prompt.")] = 512,
    text: Annotated[
        list[pathlib.Path] | None, typer.Option(metavar="FILE", help="Held-out text; repeatable. Default: the demo's.")
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure what a refined prompt is worth: how well the whole prompt's answer fits behind what is kept of it.

    Beside the refiner's choice: as many positions at random, from head and tail, from the tail, and from the head.

    Examples:

      [bold]milliner bench refine[/bold]

      [bold]milliner bench refine --keep 20,40 --prompts 12 --json refine.json[/bold]
    """
    from milliner.bench import refine as refine_bench

    if model is not None and not text:
        raise errors.ConfigError("is needed with --model", field="--text")
    options = refine_bench.Options(
        model=model,
        texts=tuple(text or ()),
        keep_percents=tuple(_list("--keep", keep, int)),
        prompts=prompts,
        prompt_tokens=prompt_tokens,
    )
    console = rich.console.Console(stderr=True)
    with console.status("measuring") as status:
        result = refine_bench.run(options, command=_command(), advance=lambda what: status.update(f"done: {what}"))
    _deliver(result, json_file)


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
