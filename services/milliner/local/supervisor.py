"""Keeps one child process running: starts it, follows its events, restarts it with back-off, ends it.

The rule: a child that ends with status 2 is wrongly configured and is never restarted, unless all that it lacks is a
port that it has had before; before it was ready for the first time it gets `_START_ATTEMPTS` tries; once it has been
ready it is restarted for ever, after 0.5, 1, 2, ... 8 s, beginning at 0.5 s again when it ran well for `_STABLE_S`.
What happens is told to a `Listener`, on the event loop.
"""

from __future__ import annotations

import asyncio
import enum
import signal
from typing import Protocol

from milliner.contract import role_events
from milliner.core import errors, ports, tasks
from milliner.local import children

_FIRST_DELAY_S = 0.5  # arbitrary
_LAST_DELAY_S = 8.0  # arbitrary: a person watches the terminal
_STABLE_S = 30.0  # arbitrary
_START_ATTEMPTS = 3  # arbitrary: what fails thrice at start will fail again
_EXIT_MISCONFIGURED = 2  # the roles' and the command line's status for ConfigError


class State(enum.StrEnum):
    """Where a child stands."""

    STARTING = "starting"
    WAITING = "waiting"  # serving, but not ready: its last message says why
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"  # will not be started again
    STOPPED = "stopped"


class Listener(Protocol):
    """Told of everything that a child does; must not block."""

    def on_log(self, name: str, line: str) -> None: ...

    def on_state(self, name: str, state: State, detail: str) -> None: ...


class Supervisor:
    """Owns one child over all its lives. `run()` is a task; `ready`, `state` and `last_event` may be read any time."""

    def __init__(
        self, spec: children.ChildSpec, *, lifeline: children.Lifeline, listener: Listener, clock: ports.Clock
    ) -> None:
        self.spec = spec
        self.state = State.STARTING
        self.restarts = 0
        self.pid: int | None = None
        self.serving_event: role_events.RoleEvent | None = None
        self.failure: errors.MillinerError | None = None
        self.settled = asyncio.Event()  # set once the child is ready for the first time, or has failed for good
        self.stats: dict[str, float] = {}  # the child's last answer to SIGUSR1
        self.told_stats = asyncio.Event()
        self._ever_ready = False
        self._stopping = asyncio.Event()
        self._lifeline = lifeline
        self._listener = listener
        self._clock = clock
        self._child: children.Child | None = None
        self._last_failed: role_events.RoleEvent | None = None

    async def run(self) -> None:
        """Runs until `stop` is called or the child has failed for good (then `failure` says why)."""
        try:
            await self._run()
        except OSError as error:
            self.failure = errors.UnavailableError(f"{self.spec.name} cannot be started: {error}")
            self._enter(State.FAILED, str(self.failure))
            self.settled.set()

    async def _run(self) -> None:
        attempts, delay_s = 0, _FIRST_DELAY_S
        while not self._stopping.is_set():
            attempts += 1
            self._enter(State.STARTING, "" if attempts == 1 else f"attempt {attempts}")
            started_s = self._clock.now()
            status = await self._live_once()
            if self._stopping.is_set():
                break
            if self._is_final(status, attempts):
                self._fail(status)
                return
            if self._clock.now() - started_s >= _STABLE_S:
                delay_s = _FIRST_DELAY_S
            self.restarts += 1
            self._enter(State.RESTARTING, f"{_describe(status)}; again in {delay_s:g} s")
            await tasks.set_within(self._stopping, delay_s, clock=self._clock)
            delay_s = min(2 * delay_s, _LAST_DELAY_S)
        self._enter(State.STOPPED, "")

    async def stop(self, *, grace_s: float) -> None:
        """Ends the child (SIGTERM, after `grace_s` SIGKILL) and keeps it from being restarted."""
        self._stopping.set()
        if self._child is not None:
            await self._child.stop(grace_s=grace_s)

    def send_signal(self, number: signal.Signals) -> None:
        """Signals the child if one is running."""
        if self._child is not None:
            self._child.send_signal(number)

    async def _live_once(self) -> int:
        self._last_failed = None
        self._child = await children.Child.start(self.spec, self._lifeline)
        self.pid = self._child.pid
        try:
            if self._stopping.is_set():  # asked while the process was being made: `stop` found none to end
                await self._child.stop(grace_s=0.0)
            return await self._child.run(
                on_output=self._on_output, on_log=lambda line: self._listener.on_log(self.spec.name, line)
            )
        except asyncio.CancelledError:
            await self._child.stop(grace_s=0.0)
            raise

    def _on_output(self, line: str) -> None:
        event = role_events.parse_line(line)
        if event is None:
            self._listener.on_log(self.spec.name, line)
        elif event.event is role_events.RoleEventKind.SERVING:
            self.serving_event = event
        elif event.event is role_events.RoleEventKind.READY:
            self._ever_ready = True
            self._enter(State.READY, event.message)
            self.settled.set()
        elif event.event in (role_events.RoleEventKind.LOADING, role_events.RoleEventKind.WAITING):
            waiting = event.event is role_events.RoleEventKind.WAITING
            self._enter(State.WAITING if waiting else State.STARTING, event.message)
        elif event.event is role_events.RoleEventKind.STATS:
            self.stats = {name: float(value) for name, value in event.data.items()}
            self.told_stats.set()
        elif event.event is role_events.RoleEventKind.FAILED:
            self._last_failed = event

    def _is_final(self, status: int, attempts: int) -> bool:
        if self._ever_ready and self._last_failed is not None and self._last_failed.field == role_events.PORT_FIELD:
            return False  # clients know the port: whoever took it while the child was away may give it back
        return status == _EXIT_MISCONFIGURED or (not self._ever_ready and attempts >= _START_ATTEMPTS)

    @property
    def lacks_port(self) -> bool:
        """Whether it has failed for good since another program holds its port."""
        return self.failure is not None and self.failure.field == role_events.PORT_FIELD

    def _fail(self, status: int) -> None:
        told = self._last_failed
        if told is not None:
            error = errors.ConfigError if status == _EXIT_MISCONFIGURED else errors.UnavailableError
            self.failure = error(told.message, field=told.field)
        else:
            tail = "\n".join(self._child.tail) if self._child is not None else ""
            words = f"{self.spec.name} {_describe(status)} before it was ready"
            self.failure = errors.UnavailableError(words + (f"; it said last:\n{tail}" if tail else ""))
        self._enter(State.FAILED, str(self.failure))
        self.settled.set()

    def _enter(self, state: State, detail: str) -> None:
        self.state = state
        self._listener.on_state(self.spec.name, state, detail)


def _describe(status: int) -> str:
    """An exit status in words."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
