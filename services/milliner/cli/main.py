"""`milliner`: the command line's entry point. Registers the commands and turns expected errors into exit statuses.

Exit status 0: well; 1: the work failed; 2: wrong use (options, topology, model folder). An expected error is one line
on standard error, a traceback only with `--debug`. Command modules import torch and their like inside the functions,
so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import inspect
import itertools
import os
import sys
from typing import Annotated

import rich.console
import rich.text
import typer

from milliner.cli import bench, chat, crd, demo, doctor, generate, train_adapter, up
from milliner.cli import slice as slices
from milliner.contract import errors as contract_errors
from milliner.core import errors
from milliner.local import packages

EXIT_FAILED = 1
EXIT_WRONG_USE = 2


@dataclasses.dataclass(slots=True)
class Settings:
    """What holds for every command; travels as the context's object."""

    debug: bool = False


app = typer.Typer(
    name="milliner",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First steps: [bold]milliner demo[/bold], then [bold]milliner up[/bold] and [bold]milliner chat[/bold].",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"milliner {importlib.metadata.version('milliner')}")
        raise typer.Exit


@app.callback()
def _settings(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of expected errors too.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Large language models split between a cloud and the devices that people hold."""
    settings = context.obj
    assert isinstance(settings, Settings)
    settings.debug = debug


app.command("demo")(demo.demo)
app.command("up")(up.up)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.add_typer(bench.app, name="bench")
app.command("train-adapter")(train_adapter.train_adapter)
app.command("slice")(slices.slice_)
app.command("crd")(crd.crd)
app.command("doctor")(doctor.doctor)


def _unwrap_help(*of: typer.Typer) -> None:
    """Typer keeps the line breaks of docstrings, which then stand in the middle of narrower terminals' lines."""
    for command in itertools.chain.from_iterable((*one.registered_commands, one.registered_callback) for one in of):
        assert command is not None, "both have a callback"
        paragraphs = (inspect.getdoc(command.callback) or "").split("\n\n")
        command.help = "\n\n".join(_one_line(paragraph) for paragraph in paragraphs)


def _one_line(paragraph: str) -> str:
    """Its words in one line, behind the indent of its first."""
    indent = len(paragraph) - len(paragraph.lstrip(" "))
    return " " * indent + " ".join(paragraph.split())


_unwrap_help(app, bench.app)


def main() -> None:
    """Runs the command line and exits the process."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # C-core would log every connection that ends
    settings = Settings()
    try:
        app(obj=settings)
    except (errors.MillinerError, contract_errors.ContractError) as error:
        if settings.debug:
            raise
        _print_error(str(error))
        sys.exit(exit_status(error))
    except OSError as error:  # a folder without rights, a full disk: nothing that a traceback explains
        if settings.debug:
            raise
        _print_error(_os_words(error))
        sys.exit(EXIT_FAILED)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if settings.debug or missing in ("", "milliner"):  # a module of our own that is missing is a bug
            raise
        remedy = f"this command computes and needs the runtime: {packages.INSTALL}"
        _print_error(f"{missing} is not installed; {remedy}")
        sys.exit(EXIT_FAILED)


def exit_status(error: Exception) -> int:
    """2 for what the user can put right in the command or the topology, else 1."""
    wrong_use = errors.ConfigError | errors.InputError | contract_errors.ContractError
    return EXIT_WRONG_USE if isinstance(error, wrong_use) else EXIT_FAILED


def _os_words(error: OSError) -> str:
    what = error.strerror or type(error).__name__
    where = f"{error.filename}: " if error.filename else ""
    remedy = ": make room on the disk of the file" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return f"{where}{what}{remedy} (milliner --debug shows where this came up)"


def _print_error(words: str) -> None:
    """One line for one problem; a document with several has a line for each."""
    console = rich.console.Console(stderr=True, highlight=False, soft_wrap=True)
    for line in words.splitlines():
        console.print(rich.text.Text.assemble(("error: ", "bold red"), line))


if __name__ == "__main__":
    main()
