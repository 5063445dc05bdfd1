"""Runs a planned topology as processes of this machine; ends the devices first, then the cloud replicas.

The runner writes each role's configuration into a folder of its own, supervises the processes, waits until all are
ready (a role whose port another program took first gets another one), and notes the topology in a state file so that
other commands find it. It is an asynchronous context manager; leaving it, however, ends every child within
`stop_grace_s`. What outlives even `kill -9` of this process is nothing: see `children`. Runs on one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping
from types import TracebackType

from milliner.core import clock, errors
from milliner.local import children, launches, packages, ports, state_files, storing, supervisor

_STOP_GRACE_S = 5.0  # arbitrary: "within a few seconds", after which SIGKILL
_STATS_TIMEOUT_S = 5.0  # arbitrary: an answer takes milliseconds
_READY_TIMEOUT_S = 120.0  # arbitrary: a model of some GB from a slow disk
_MOST_MOVES = 5  # to other ports, in all; arbitrary: one is rare


class Runner:
    """See the module. `listener` hears of logs and states; `environment` is that of the processes.

    With `noted` the topology is noted in `state` once it is ready, and no other of its name may run meanwhile.
    """

    def __init__(
        self,
        launch: launches.TopologyLaunch,
        *,
        listener: supervisor.Listener,
        state: state_files.StateFiles,
        environment: Mapping[str, str],
        noted: bool = True,
        stop_grace_s: float = _STOP_GRACE_S,
    ) -> None:
        self.launch = launch
        self.supervisors: dict[str, supervisor.Supervisor] = {}
        self._listener = listener
        self._state = state
        self._stop_grace_s = stop_grace_s
        self._environment = environment
        self._noted = noted
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cleanup = contextlib.ExitStack()
        self._folder = pathlib.Path()
        self._lifeline: children.Lifeline | None = None

    async def __aenter__(self) -> Runner:
        """Starts the processes. Raises `ConfigError` if a topology of this name runs here or packages are absent."""
        if absent := packages.absent():
            raise errors.ConfigError(f"not installed: {', '.join(absent)}; its processes need them: {packages.INSTALL}")
        with contextlib.ExitStack() as cleanup:
            if self._noted:
                cleanup.callback(self._state.claim(self.launch.name).release)
                cleanup.callback(self._state.remove, self.launch.name)
            self._folder = self._state.work_folder(self.launch.name)
            cleanup.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._lifeline = children.Lifeline()
            cleanup.callback(self._lifeline.close)
            self._start(self.launch.roles)
            self._cleanup = cleanup.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._noted:
            self._state.remove(self.launch.name)
        try:
            for tier in (self.launch.devices, self.launch.clouds):
                await self._stop(tier)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            self._cleanup.close()

    def _start(self, roles: Iterable[launches.RoleLaunch]) -> None:
        assert self._lifeline is not None, "started inside the context"
        for role in roles:
            path = self._folder / f"{role.name}.json"
            with storing.storing(path):
                path.write_text(role.config.to_json())
            spec = children.ChildSpec(name=role.name, argv=_command(role, path), environment=self._environment)
            one = supervisor.Supervisor(spec, lifeline=self._lifeline, listener=self._listener, clock=clock.LoopClock())
            self.supervisors[role.name] = one
            self._tasks[role.name] = asyncio.create_task(one.run(), name=f"supervise {role.name}")

    async def _stop(self, roles: Iterable[launches.RoleLaunch]) -> None:
        names = [role.name for role in roles]
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(self.supervisors[name].stop(grace_s=self._stop_grace_s))
        await asyncio.gather(*(self._tasks[name] for name in names))

    async def wait_ready(self, *, timeout_s: float = _READY_TIMEOUT_S) -> state_files.RunningTopology:
        """Waits until every process is ready; then, where it is to be noted, writes the topology's state file.

        Raises what a process failed with, or `DeadlineExceeded` naming the processes that are not ready.
        """
        moves = 0
        try:
            async with asyncio.timeout(timeout_s):
                while (homeless := await self._settled()) is not None:
                    moves += 1
                    if moves > _MOST_MOVES:
                        self.raise_failure()
                    await self._move(homeless)
        except TimeoutError:
            late = {name: one.state for name, one in self.supervisors.items() if not one.settled.is_set()}
            awaited = ", ".join(f"{name} ({state})" for name, state in late.items())
            raise errors.DeadlineExceeded(
                f"not ready after {timeout_s:g} s: {awaited}; a large model may need longer: milliner up --timeout"
            ) from None
        running = self.running()
        if self._noted:
            self._state.write(running)
        return running

    async def _settled(self) -> launches.RoleLaunch | None:
        """Waits until all are ready (None), or one lacks its port (it); raises what one failed with otherwise."""
        waits = [asyncio.ensure_future(one.settled.wait()) for one in self.supervisors.values()]
        try:
            for wait in asyncio.as_completed(waits):
                await wait
                for role in self.launch.roles:
                    if self.supervisors[role.name].lacks_port:
                        return role
                self.raise_failure()
        finally:
            for wait in waits:
                wait.cancel()
        return None

    async def _move(self, role: launches.RoleLaunch) -> None:
        """Starts the role on another port, and again those that have to know it. Raises where the user named it."""
        listen = role.config.listen
        if role.port_option:
            raise ports.taken(listen.host, listen.port, field=role.port_option)
        old = {one.name: one.config for one in self.launch.roles}
        self.launch = launches.moved(self.launch, role.name)
        changed = [one for one in self.launch.roles if one.config != old[one.name]]
        self._listener.on_state(
            role.name, supervisor.State.RESTARTING, f"another program took port {listen.port}: on another one"
        )
        await self._stop(changed)
        self._start(changed)

    async def overrun_share(self, *, timeout_s: float = _STATS_TIMEOUT_S) -> float:
        """Share of all accelerators' calls whose real compute took longer than the modelled duration; 0 without calls.

        A child that does not answer in time is left out.
        """
        for one in self.supervisors.values():
            one.told_stats.clear()
            one.send_signal(signal.SIGUSR1)
        waits = [asyncio.ensure_future(one.told_stats.wait()) for one in self.supervisors.values()]
        _, late = await asyncio.wait(waits, timeout=timeout_s)
        for wait in late:
            wait.cancel()
        stats = [one.stats for one in self.supervisors.values() if one.told_stats.is_set()]
        calls = sum(one.get("calls", 0.0) for one in stats)
        return sum(one.get("overruns", 0.0) for one in stats) / calls if calls else 0.0

    def raise_failure(self) -> None:
        """Raises the error of a process that failed for good, if one did."""
        for one in self.supervisors.values():
            if one.failure is not None:
                raise one.failure

    async def wait_for_failure(self) -> None:
        """Waits until a process fails for good, and raises its error; never returns."""
        await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        self.raise_failure()
        raise errors.UnavailableError("a process of the topology ended")

    def running(self) -> state_files.RunningTopology:
        """The topology as it is noted for other commands."""
        started_s = state_files.process_started_s(os.getpid())
        assert started_s is not None, "this process runs"
        return state_files.RunningTopology(
            name=self.launch.name,
            strategy=self.launch.strategy,
            model=self.launch.model,
            runner_pid=os.getpid(),
            runner_started_s=started_s,
            devices=tuple(self._endpoint(role, scheme="http://") for role in self.launch.devices),
            clouds=tuple(self._endpoint(role, scheme="") for role in self.launch.clouds),
        )

    def _endpoint(self, role: launches.RoleLaunch, *, scheme: str) -> state_files.Endpoint:
        pid = self.supervisors[role.name].pid or 0
        return state_files.Endpoint(name=role.name, url=f"{scheme}{role.address}", pid=pid)


def _command(role: launches.RoleLaunch, config: pathlib.Path) -> tuple[str, ...]:
    return (sys.executable, "-m", "milliner.roles", role.config.role, "--config", str(config))
