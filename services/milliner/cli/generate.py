"""`milliner generate`: one answer, streamed, from a running topology or one started for it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import rich.console
import typer

from milliner.core import errors

if TYPE_CHECKING:
    from milliner.cli import target

Url = Annotated[str | None, typer.Option(help="Base URL of a device, such as http://127.0.0.1:8080.")]
Name = Annotated[str | None, typer.Option(help="Which of the topologies that run here.")]
Topology = Annotated[
    pathlib.Path | None,
    typer.Option("--topology", "-f", metavar="FILE", help="Start this topology for the time of the command."),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Most tokens of an answer.")]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 picks the likeliest token.")]


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """What is shown beside the text."""

    trace: bool
    explain: bool
    as_json: bool


def generate(
    prompt: Annotated[str | None, typer.Argument(help="Text to continue; - or nothing reads standard input.")] = None,
    max_tokens: MaxTokens = 64,
    temperature: Temperature = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Pick among the likeliest that sum to this.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Pick among this many likeliest; 0: all.")] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; up to four times.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a chat message.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Draw where the time went, round by round.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say how the answer came about, in figures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    url: Url = None,
    name: Name = None,
    topology: Topology = None,
) -> None:
    """Generate one answer and stream it.

    Talks to the topology that runs on this machine; if none does, starts the built-in demo (or [bold]-f FILE[/bold])
    for the time of the command.

    Examples:

      [bold]milliner generate "def main(argv"[/bold]

      [bold]milliner generate --trace -n 32 < prompt.txt[/bold]

      [bold]milliner generate -f manifests/samples/ushape.yaml --explain "import os"[/bold]
    """
    text = _prompt(prompt)
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
    options |= {"top_k": top_k} if top_k else {}
    options |= {"seed": seed} if seed is not None else {}
    options |= {"stop": stop} if stop else {}
    shown = Shown(trace=trace, explain=explain, as_json=as_json)
    asyncio.run(_generate(text, chat=chat, options=options, shown=shown, url=url, name=name, topology=topology))


async def _generate(
    prompt: str,
    *,
    chat: bool,
    options: dict[str, Any],
    shown: Shown,
    url: str | None,
    name: str | None,
    topology: pathlib.Path | None,
) -> None:
    from milliner.cli import target

    async with target.device(url=url, name=name, topology=topology) as found:
        await _stream(found, prompt, chat=chat, options=options, shown=shown)


async def _stream(found: target.Target, prompt: str, *, chat: bool, options: dict[str, Any], shown: Shown) -> None:
    """Asks the device and prints what comes, as it comes."""
    from milliner.local import client

    out = rich.console.Console(highlight=False, soft_wrap=True)
    body = {"model": found.model, "milliner": {"explain": True}, **options}
    if out.is_terminal and not shown.as_json and not chat:
        out.print(prompt, style="dim", end="", markup=False)
    answer = client.Piece(text="")
    async with client.DeviceClient(found.url) as http:
        messages = [{"role": "user", "content": prompt}]
        pieces = http.chat(messages, **body) if chat else http.complete(prompt, **body)
        async with contextlib.aclosing(pieces) as stream:
            async for piece in stream:
                answer = client.merged(answer, piece)
                if piece.text and not shown.as_json:
                    sys.stdout.write(piece.text)
                    sys.stdout.flush()
    if shown.as_json:
        rest = {"finish_reason": answer.finish_reason, "usage": answer.usage, "milliner": answer.explain}
        typer.echo(json.dumps({"text": answer.text, **rest}))
        return
    sys.stdout.write("\n")
    sys.stdout.flush()
    if answer.explain is not None and (shown.trace or shown.explain):
        _print_figures(answer.explain, trace=shown.trace)


def _print_figures(explain: Any, *, trace: bool) -> None:
    """The waterfall or the figures, on standard error so that standard output holds the answer alone."""
    from milliner.cli import figures
    from milliner.telemetry import summary_json, waterfall

    to = rich.console.Console(stderr=True)
    summary = summary_json.parse(explain)
    to.print()
    if trace:
        waterfall.print_waterfall(summary, to=to)
    else:
        to.print(figures.line(summary), style="dim", highlight=False)


def _prompt(argument: str | None) -> str:
    """The prompt from the argument or standard input. Raises `InputError` when there is none."""
    if argument is not None and argument != "-":
        text = argument
    elif argument is None and sys.stdin.isatty():
        raise errors.InputError("give a prompt, or pipe one in", field="PROMPT")
    else:
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise errors.InputError(f"standard input is no UTF-8 text: {error.reason}", field="PROMPT") from None
    if not text:
        raise errors.InputError('is empty: give a text, such as milliner generate "def main("', field="PROMPT")
    return text
