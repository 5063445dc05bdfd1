"""Finds the device that a command talks to: one that was named, one that runs here, or a temporary topology."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import urllib.parse
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import rich.console

from milliner.core import errors

if TYPE_CHECKING:
    from milliner.local import launches, state_files
    from milliner.local import runner as runners


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Base URLs of the devices, the model name to ask for, and the strategy where it is known."""

    urls: tuple[str, ...]
    model: str
    strategy: str
    runner: runners.Runner | None = None  # where it was started for this command

    @property
    def url(self) -> str:
        """The first device."""
        return self.urls[0]


@contextlib.asynccontextmanager
async def device(*, url: str | None, name: str | None, topology: pathlib.Path | None) -> AsyncGenerator[Target, None]:
    """The device at `url`, or of the running topology `name` (None: the only one), or of `topology`, started for now.

    Without any of them and with nothing running, the built-in demo is started for the time of the command. Raises
    `ConfigError` for a name that does not run, when several topologies run and none is named, and for options that
    contradict one another.
    """
    from milliner.local import client, launches, state_files

    given = {"--url": url, "--name": name, "--topology": topology}
    several = [option for option, value in given.items() if value is not None]
    if len(several) > 1:
        raise errors.ConfigError(f"cannot go with {several[0]}: give one of them", field=several[1])
    if url is not None:
        url = checked_url(url)
        async with client.DeviceClient(url) as http:
            models = await http.models()
        yield Target(urls=(url,), model=models[0], strategy="")
        return
    state = state_files.StateFiles(state_files.directory(os.environ))
    running = state.find(name) if topology is None else None
    if running is not None:
        if not running.devices:
            raise errors.ConfigError(f"{running.name} has no device to talk to", field="--name")
        yield _target(running)
        return
    planned = launches.plan_file(topology, wishes=launches.PortWishes(as_declared=False))
    if len(planned) > 1:
        raise errors.ConfigError("the file holds several topologies: start them with milliner up", field="--topology")
    async with started(planned[0], state=state) as target:
        yield target


def checked_url(text: str) -> str:
    """The base URL of a device, without a slash at its end. Raises `ConfigError` for what is none."""
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port outside the range, brackets that do not match
        usable = False
    if not usable:
        raise errors.ConfigError(f"{text!r} is no URL of a device: write http://HOST:PORT", field="--url")
    return text.rstrip("/")


@contextlib.asynccontextmanager
async def started(launch: launches.TopologyLaunch, *, state: state_files.StateFiles) -> AsyncGenerator[Target, None]:
    """A topology that runs while the context is open; nobody else finds it. Shows a spinner until it is ready."""
    from milliner.local import console
    from milliner.local import runner as runners

    names = tuple(role.name for role in launch.roles)
    shown = console.Console(rich.console.Console(stderr=True), names=names, quiet=True)
    named = dataclasses.replace(launch, name=f"{launch.name}-{os.getpid()}")
    one = runners.Runner(named, listener=shown, state=state, environment=os.environ, noted=False)
    for note in launch.notes:
        shown.say(f"note: {note}")
    async with one:
        shown.start_waiting()
        try:
            running = await one.wait_ready()
        finally:
            shown.stop_waiting()
        yield dataclasses.replace(_target(running), runner=one)


def _target(running: state_files.RunningTopology) -> Target:
    urls = tuple(device.url for device in running.devices)
    return Target(urls=urls, model=running.model, strategy=running.strategy)
