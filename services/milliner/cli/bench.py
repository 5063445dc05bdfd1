"""`milliner bench`: the strategies side by side on an emulated link; `bench_parts` has the benches of single parts.

Every bench prints a table and, with `--json FILE`, writes the report of `bench.report`. The benches themselves are in
`milliner.bench`; they are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Annotated

import rich.console
import typer

from milliner.bench import plan
from milliner.cli import bench_options, bench_parts
from milliner.core import errors

if TYPE_CHECKING:
    from milliner.bench import paper_wifi, report

STRATEGIES = ",".join(plan.StrategyName)
_PD = "pd"
_PD_PARAMETERS = ("preset", "requests", "time_scale", "quick", "json_file")  # all others are of strategies that split
app = typer.Typer(name="bench", rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})
bench_parts.add_to(app)


Preset = Annotated[str, typer.Option(help="The emulated world: paper-wifi (Hat), or pd (P/D-Device).")]
Strategies = Annotated[str, typer.Option(metavar="NAMES", help="What to compare, comma-separated.", show_default=True)]
Codecs = Annotated[str, typer.Option(metavar="NAMES", help="Codecs of the prompt: float16, int8, int4, …")]
PromptTokens = Annotated[str, typer.Option(metavar="NUMBERS", help="Prompt lengths in tokens.")]
Temperatures = Annotated[str, typer.Option(metavar="NUMBERS", help="0 is greedy.")]
NewTokens = Annotated[int, typer.Option(help="Length of each answer in tokens.")]
Requests = Annotated[int, typer.Option("--requests", "-n", help="Requests per cell, each with its own prompt.")]
TimeScale = Annotated[
    float | None,
    typer.Option(
        help="Slow link and compute alike by this factor; ratios hold. Without it a trial of some seconds finds out "
        "what this machine needs."
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="One request per cell, 512 tokens, float16 and greedy only: a minute. With pd: answers of 64 tokens.",
    ),
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
    time_scale: TimeScale = None,
    quick: Quick = False,
    modelled: Modelled = False,
    virtual_time: VirtualTime = False,
    agreement: Agreement = 0.77,
    model: Model = None,
    adapter: Adapter = None,
    medusa: Medusa = None,
    text: Text = None,
    json_file: bench_options.JsonFile = None,
) -> None:
    """Compare strategies on the same prompts, real processes, link and compute emulated as the preset says.

    Rows whose real compute took longer than the emulated one in more than 1 % of the calls are marked invalid. Where a
    machine is too slow for that, link and compute run slower alike; [bold]--time-scale 2[/bold] says by how much.

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
    _check_preset(preset)
    if preset == _PD:
        _refuse_what_pd_does_not_read(context)
        bench_options.deliver(_run_pd(requests=requests, quick=quick, time_scale=time_scale), json_file)
        return
    if quick:
        requests, prompt_tokens, codecs, temperatures = 1, "512", "float16", "0"
    if modelled and virtual_time:
        raise errors.ConfigError("is something else than --modelled: choose one of them", field="--virtual-time")
    if modelled:
        temperatures = "0"
    run_plan = plan.Plan(
        strategies=bench_options.values("--strategies", strategies, _strategy),
        codecs=bench_options.values("--codecs", codecs, str),
        prompt_tokens=bench_options.values("--prompt-tokens", prompt_tokens, int),
        temperatures=bench_options.values("--temperatures", temperatures, float),
        requests=requests,
        new_tokens=new_tokens,
    )
    if modelled:
        from milliner.bench import paper_wifi_modelled

        result = paper_wifi_modelled.run(
            run_plan, preset_name=preset, agreement=agreement, command=bench_options.command_line()
        )
    else:
        run_inputs = _inputs(model, adapter=adapter, medusa=medusa, texts=text or [])
        result = (
            _run_virtual(run_plan, preset=preset, run_inputs=run_inputs)
            if virtual_time
            else _run_real(run_plan, preset=preset, time_scale=time_scale, run_inputs=run_inputs)
        )
    bench_options.deliver(result, json_file)


def _check_preset(name: str) -> None:
    """Raises `ConfigError` for one that does not exist."""
    from milliner.bench import presets

    known = (*sorted(presets.PRESETS), _PD)
    if name not in known:
        raise errors.ConfigError(f"there is no preset {name!r}: use {' or '.join(known)}", field="--preset")


def _refuse_what_pd_does_not_read(context: typer.Context) -> None:
    """Raises `ConfigError` for an option that would change nothing: who asked for virtual time shall not wait for
    real processes."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name not in _PD_PARAMETERS and source is not None and source.name == "COMMANDLINE":
            raise errors.ConfigError("has no effect with --preset pd, whose cells are its own", field=parameter.opts[0])


def _run_pd(*, requests: int, quick: bool, time_scale: float | None) -> report.Report:
    """P/D-Device beside DeviceOnly and CloudOnly; its cells are its own."""
    from milliner.bench import paper_wifi, pd

    found = paper_wifi.demo_inputs()
    return pd.run(
        model=found.files.model,
        texts=found.texts,
        requests=requests,
        quick=quick,
        time_scale=time_scale,
        command=bench_options.command_line(),
        console=rich.console.Console(stderr=True),
    )


def _run_real(
    run_plan: plan.Plan, *, preset: str, time_scale: float | None, run_inputs: paper_wifi.Inputs | None
) -> report.Report:
    """Real processes, slowed by `time_scale` or as the machine needs."""
    from milliner.bench import paper_wifi

    return paper_wifi.run(
        run_plan,
        preset_name=preset,
        time_scale=time_scale,
        command=bench_options.command_line(),
        console=rich.console.Console(stderr=True),
        run_inputs=run_inputs,
    )


def _run_virtual(run_plan: plan.Plan, *, preset: str, run_inputs: paper_wifi.Inputs | None) -> report.Report:
    """The real model in virtual time."""
    from milliner.bench import paper_wifi_virtual

    return paper_wifi_virtual.run(
        run_plan,
        preset_name=preset,
        command=bench_options.command_line(),
        console=rich.console.Console(stderr=True),
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


def _strategy(name: str) -> plan.StrategyName:
    return {known.lower(): known for known in plan.StrategyName}[name.lower()]
