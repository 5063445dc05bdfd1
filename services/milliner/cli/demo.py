"""`milliner demo`: the main job, in a minute: UShape and Hat answer the same prompt over the same emulated link."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import rich.console
import rich.live
import typer

from milliner.cli import demo_view, target
from milliner.contract import kinds

if TYPE_CHECKING:
    from milliner.local import client, demonstration
    from milliner.telemetry.summary import RequestSummary


def demo(
    prompt_tokens: Annotated[int, typer.Option(min=1, max=2048, help="Length of the held-out prompt.")] = 512,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=2, max=512, help="Length of the answers.")] = 64,
    codec: Annotated[
        kinds.Codec, typer.Option(help="How prompt positions are written on the wire; Int8 and Int4 are not exact.")
    ] = kinds.Codec.FLOAT16,
    time_scale: Annotated[float, typer.Option(help="Slow link and compute alike by this factor.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead.")] = False,
) -> None:
    """See the same model answer with and without drafting, split between a "device" and a "cloud" on this machine.

    Starts a cloud process and two device processes that talk to it over an emulated Wi-Fi link, with compute slowed to
    that of a 7B model; checks both answers against the unsplit model; draws where Hat's time went. Takes about half a
    minute, and leaves nothing running.

    Examples:

      [bold]milliner demo[/bold]

      [bold]milliner demo --prompt-tokens 2048 --codec Int4[/bold]
    """
    from milliner.local import demonstration

    chosen = demonstration.variants(codec)
    asyncio.run(_demo(chosen, prompt_tokens, max_tokens=max_tokens, time_scale=time_scale, as_json=as_json))


async def _demo(
    chosen: tuple[demonstration.Variant, ...],
    prompt_tokens: int,
    *,
    max_tokens: int,
    time_scale: float,
    as_json: bool,
) -> None:
    from milliner.local import demonstration, state_files

    prompt = demonstration.prompt(prompt_tokens)
    launch = demonstration.plan(chosen, time_scale=time_scale)
    out = rich.console.Console(quiet=as_json, highlight=False)
    demo_view.print_introduction(out, launch=launch, prompt=prompt)
    state = state_files.StateFiles(state_files.directory(os.environ))
    async with target.started(launch, state=state) as running:
        answers = await _race(chosen, running.urls, prompt=prompt, model=running.model, max_tokens=max_tokens, out=out)
        assert running.runner is not None, "started here"
        overrun_share = await running.runner.overrun_share()
    with out.status("the unsplit model answers"):
        expected = await asyncio.to_thread(_reference, prompt.token_ids, max_tokens)
    results = [
        demo_view.Result(title=variant.title, summary=summary, equal_tokens=_equal(answer.token_ids, expected))
        for variant, (answer, summary) in zip(chosen, answers, strict=True)
    ]
    if as_json:
        report = {"compute_overrun_share": overrun_share, "results": [result.to_json() for result in results]}
        typer.echo(json.dumps(report, indent=2))
        return
    demo_view.print_results(out, results, num_tokens=len(expected), overrun_share=overrun_share, time_scale=time_scale)


async def _race(
    chosen: tuple[demonstration.Variant, ...],
    urls: tuple[str, ...],
    *,
    prompt: demonstration.Prompt,
    model: str,
    max_tokens: int,
    out: rich.console.Console,
) -> list[tuple[client.Piece, RequestSummary]]:
    """One answer after the other, shown side by side as they grow: at once, they would share the cloud."""
    view = demo_view.SideBySide(tuple(variant.title for variant in chosen), console=out)
    options = {"model": model, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}
    answers = []
    with rich.live.Live(view, console=out, refresh_per_second=20, transient=False):
        for index, url in enumerate(urls):
            answers.append(await _answer(url, prompt, options=options, view=view, index=index))
    return answers


async def _answer(
    url: str, prompt: demonstration.Prompt, *, options: dict[str, Any], view: demo_view.SideBySide, index: int
) -> tuple[client.Piece, RequestSummary]:
    from milliner.core import errors
    from milliner.local import client
    from milliner.telemetry import summary_json

    told = client.Piece(text="")
    view.start(index)
    async with client.DeviceClient(url) as http:
        body = {"return_token_ids": True, "milliner": {"explain": True}, **options}
        async with contextlib.aclosing(http.complete(list(prompt.token_ids), **body)) as pieces:
            async for piece in pieces:
                told = client.merged(told, piece)
                view.update(index, told.text, num_tokens=len(told.token_ids))
    if told.explain is None:
        raise errors.ProtocolError("the device sent no figures", field="milliner")
    summary = summary_json.parse(told.explain)
    view.finish(index, summary)
    return told, summary


def _reference(prompt_ids: tuple[int, ...], num_tokens: int) -> tuple[int, ...]:
    """Greedy tokens of the unsplit demo model in float32, by transformers. Blocks for a few seconds."""
    import transformers

    from milliner.bench import reference
    from milliner.demo import assets

    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return reference.greedy_answers(assets.model_dir(), [prompt_ids], new_tokens=num_tokens)[prompt_ids]


def _equal(found: tuple[int, ...], expected: tuple[int, ...]) -> int:
    """Tokens equal up to the first difference."""
    pairs = enumerate(zip(found, expected, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(found), len(expected)))
