"""`milliner up`: runs topologies as processes of this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import signal
from typing import TYPE_CHECKING, Annotated

import rich.console
import rich.text
import typer

from milliner.core import errors

if TYPE_CHECKING:
    from milliner.local import console, launches, state_files

File = Annotated[
    pathlib.Path | None,
    typer.Option("--file", "-f", metavar="FILE", help="InferenceTopology to run; - reads it from standard input."),
]


def up(
    extra: Annotated[str | None, typer.Argument(hidden=True)] = None,
    file: File = None,
    name: Annotated[
        str | None, typer.Option(help="Which topology of the file to run, where it holds several; default: all.")
    ] = None,
    device_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="HTTP port of the first device. Default: the pool's, if free.")
    ] = None,
    time_scale: Annotated[
        float, typer.Option(help="Slow emulated link and compute alike by this factor, for slow machines.")
    ] = 1.0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show what fails only.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="When ready, print one line of JSON per topology on standard output.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds until all processes must be ready.")] = 120.0,
) -> None:
    """Run a topology on this machine: a process per cloud replica and device, links and compute emulated as it says.

    Without [bold]-f[/bold] it runs the built-in demo. Ctrl-C ends all processes.

    Examples:

      [bold]milliner up[/bold]

      [bold]milliner up -f manifests/samples/hat.yaml --device-port 9000[/bold]

      [bold]cat topology.yaml | milliner up -f - --json > endpoints.json[/bold]
    """
    from milliner.local import launches, state_files

    if extra is not None:
        raise errors.ConfigError(f"comes with -f: milliner up -f {extra}", field="FILE")
    wishes = launches.PortWishes(first=device_port)
    planned = launches.plan_file(file, name=name, wishes=wishes, time_scale=time_scale)
    state = state_files.StateFiles(state_files.directory(os.environ))
    asyncio.run(_run(planned, state=state, quiet=quiet, as_json=as_json, timeout_s=timeout))


async def _run(
    planned: list[launches.TopologyLaunch],
    *,
    state: state_files.StateFiles,
    quiet: bool,
    as_json: bool,
    timeout_s: float,
) -> None:
    """Runs until a signal asks for the end (exit 0) or a process fails for good (raises)."""
    from milliner.local import console

    names = tuple(role.name for launch in planned for role in launch.roles)
    shown = console.Console(rich.console.Console(stderr=True), names=names, quiet=quiet)
    main_task = asyncio.current_task()
    assert main_task is not None
    loop, asked_to_stop = asyncio.get_running_loop(), asyncio.Event()

    def stop(signal_name: str) -> None:
        if not asked_to_stop.is_set():
            shown.stop_waiting()
            shown.say(f"{signal_name}: ending the processes")
            asked_to_stop.set()
            main_task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number.name)
    try:
        await _serve(planned, state=state, shown=shown, as_json=as_json, timeout_s=timeout_s)
    except asyncio.CancelledError:
        if not asked_to_stop.is_set():
            raise
        main_task.uncancel()
    finally:
        shown.stop_waiting()


async def _serve(
    planned: list[launches.TopologyLaunch],
    *,
    state: state_files.StateFiles,
    shown: console.Console,
    as_json: bool,
    timeout_s: float,
) -> None:
    from milliner.local import runner

    async with contextlib.AsyncExitStack() as stack:
        for note in (note for one in planned for note in one.notes):
            shown.note(note)
        shown.start_waiting()
        runners = [
            await stack.enter_async_context(runner.Runner(one, listener=shown, state=state, environment=os.environ))
            for one in planned
        ]
        running = [await one.wait_ready(timeout_s=timeout_s) for one in runners]
        shown.stop_waiting()
        for topology in running:
            if as_json:
                typer.echo(topology.model_dump_json())
            shown.announce(topology)
        waits = [asyncio.ensure_future(one.wait_for_failure()) for one in runners]
        try:
            await next(asyncio.as_completed(waits))
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
