"""The bench's cloud: a role process of its own, as `milliner up` would start it, with its counters on request.

Started with a role configuration in a file, ended with the bench however the bench ends (`local.children`). What it
says on standard error is kept and shown only when it fails. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from milliner.bench import cells
from milliner.contract import role_events
from milliner.core import errors
from milliner.local import children

READY_WITHIN_S = 120.0  # arbitrary: loading the demo takes seconds, a busy machine several times that
STATS_WITHIN_S = 30.0  # arbitrary: an answer takes milliseconds
_STOP_GRACE_S = 5.0  # arbitrary: SIGTERM drains, and nothing is in flight then

Kind = role_events.RoleEventKind


class CloudProcessError(errors.UnavailableError):
    """The cloud process failed, ended or did not answer; the message holds the end of its log."""


class CloudProcess:
    """A running cloud role. Made by `running`."""

    def __init__(self, child: children.Child) -> None:
        self._child = child
        self._events: asyncio.Queue[role_events.RoleEvent | None] = asyncio.Queue()
        self.host = ""
        self.port = 0

    async def watch(self) -> None:
        """Reads the process' output until it ends; owned by `running`."""
        try:
            await self._child.run(on_output=self._take_line, on_log=lambda _: None)
        finally:
            self._events.put_nowait(None)

    def _take_line(self, line: str) -> None:
        event = role_events.parse_line(line)
        if event is not None:
            self._events.put_nowait(event)

    async def ready(self) -> None:
        """Waits until requests are served; then `host` and `port` are set. Raises `CloudProcessError`."""
        event = await self._next(Kind.READY, within_s=READY_WITHIN_S)
        if not event.port:
            raise self._failed("it became ready without naming its port")
        self.host, self.port = event.host or "127.0.0.1", event.port

    async def counters(self) -> cells.ComputeCounters:
        """What the cloud's executor has counted until now. Raises `CloudProcessError`."""
        self._child.send_signal(signal.SIGUSR1)
        event = await self._next(Kind.STATS, within_s=STATS_WITHIN_S)
        try:
            return cells.ComputeCounters(
                calls=int(event.data["calls"]),
                overruns=int(event.data["overruns"]),
                busy_s=float(event.data["busy_s"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._failed(f"its counters are unreadable: {event.data}") from error

    async def _next(self, kind: Kind, *, within_s: float) -> role_events.RoleEvent:
        """The next event of that kind; others before it are dropped, a failure or the end raises."""
        try:
            async with asyncio.timeout(within_s):
                while (event := await self._events.get()) is not None:
                    if event.event is Kind.FAILED:
                        raise self._failed(f"{event.field}: {event.message}" if event.field else event.message)
                    if event.event is kind:
                        return event
        except TimeoutError as error:
            raise self._failed(f"no event {kind.value!r} within {within_s:.0f} s") from error
        raise self._failed("it ended")

    def _failed(self, what: str) -> CloudProcessError:
        log = "".join(f"\n  {line}" for line in self._child.tail)
        return CloudProcessError(f"the bench's cloud process failed: {what}{log}", field="cloud")


@contextlib.asynccontextmanager
async def running(config: Path, *, environment: dict[str, str], role: str = "cloud") -> AsyncIterator[CloudProcess]:
    """A cloud role that serves, from its configuration file; stopped at the end. Raises `CloudProcessError`."""
    argv = (sys.executable, "-m", "milliner.roles", role, "--config", str(config))
    lifeline = children.Lifeline()
    try:
        spec = children.ChildSpec(name="bench-cloud", argv=argv, environment={**os.environ, **environment})
        child = await children.Child.start(spec, lifeline)
        cloud = CloudProcess(child)
        watcher = asyncio.create_task(cloud.watch(), name="bench-cloud-output")
        try:
            await cloud.ready()
            yield cloud
        finally:
            await child.stop(grace_s=_STOP_GRACE_S)
            await watcher
    finally:
        lifeline.close()
