"""`milliner chat`: a conversation in the terminal, with a running topology or one started for it.

The event loop runs while an answer comes and stands still while the person types, so that Ctrl-C means what it
should in both: it ends the answer, or the program.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import rich.console

from milliner.cli import figures, generate, target
from milliner.core import errors

_HELP = "/quit ends (so does Ctrl-D), /clear forgets the conversation, Ctrl-C stops an answer"


def chat(
    max_tokens: generate.MaxTokens = 256,
    temperature: generate.Temperature = 0.0,
    url: generate.Url = None,
    name: generate.Name = None,
    topology: generate.Topology = None,
) -> None:
    """Talk to the model: an answer is streamed, and the next message follows on it.

    Talks to the topology that runs on this machine; if none does, starts the built-in demo (or [bold]-f FILE[/bold]).
    The demo model continues Python and English text; it was never trained to follow instructions.

    Examples:

      [bold]milliner chat[/bold]

      [bold]milliner chat --url http://orin-3:8080 --temperature 0.8[/bold]
    """
    out = rich.console.Console(highlight=False)
    with asyncio.Runner() as loop:
        stack = contextlib.AsyncExitStack()
        device = target.device(url=url, name=name, topology=topology)
        found = loop.run(stack.enter_async_context(device))
        try:
            out.print(f"[bold]{found.model}[/] [dim]{found.strategy} at {found.url} · {_HELP}[/]")
            options = {"max_tokens": max_tokens, "temperature": temperature}
            _converse(loop, Conversation(found, options=options), out)
        finally:
            loop.run(stack.aclose())


class Conversation:
    """The messages so far, and how to ask for the next one."""

    def __init__(self, found: target.Target, *, options: dict[str, Any]) -> None:
        self.messages: list[dict[str, str]] = []
        self._found = found
        self._options = options

    async def answer(self, message: str, out: rich.console.Console) -> None:
        """Streams the answer to `message`. One that is cut short stays in the conversation as far as it came."""
        from milliner.local import client
        from milliner.telemetry import summary_json

        body = {"model": self._found.model, "milliner": {"explain": True}, **self._options}
        told = client.Piece(text="")
        asked = [*self.messages, {"role": "user", "content": message}]
        try:
            async with (
                client.DeviceClient(self._found.url) as http,
                contextlib.aclosing(http.chat(asked, **body)) as pieces,
            ):
                async for piece in pieces:
                    told = client.merged(told, piece)
                    sys.stdout.write(piece.text)
                    sys.stdout.flush()
        finally:
            sys.stdout.write("\n")
            if told.text:
                self.messages = [*asked, {"role": "assistant", "content": told.text}]
        if told.explain is not None:
            out.print(figures.line(summary_json.parse(told.explain)), style="dim")


def _converse(loop: asyncio.Runner, conversation: Conversation, out: rich.console.Console) -> None:
    for message in _messages(styled=out.is_terminal and not out.is_dumb_terminal):
        if message == "/clear":
            conversation.messages = []
            out.print("forgotten", style="dim")
        elif message.startswith("/"):
            out.print(_HELP, style="dim")
        else:
            _answer(loop, conversation, message, out)


def _answer(loop: asyncio.Runner, conversation: Conversation, message: str, out: rich.console.Console) -> None:
    try:
        loop.run(conversation.answer(message, out))
    except KeyboardInterrupt:
        out.print("(stopped)", style="dim")
    except errors.MillinerError as error:
        # The conversation goes on: the next message may be shorter, the device back again.
        out.print(f"[bold red]error:[/] {error}", highlight=False)


def _messages(*, styled: bool) -> Iterator[str]:
    """What the person types, line by line, until /quit, Ctrl-D or Ctrl-C at the prompt; `styled`: in bold."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # line editing and history; not on every platform
            importlib.import_module("readline")
    mark = "\x01\x1b[1m\x02> \x01\x1b[0m\x02" if styled else "> "
    prompt = mark if sys.stdin.isatty() and sys.stdout.isatty() else ""
    while True:
        try:
            message = input(prompt).strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return
        if message == "/quit":
            return
        if message:
            yield message
