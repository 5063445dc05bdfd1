"""What every role has from its start to its end: a compute thread, health on a port of its own, reports, a clock."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator

from milliner.api import health
from milliner.contract import role_config, role_events
from milliner.core import clock, ports
from milliner.engine import executor
from milliner.roles import http_server, reporter


@dataclasses.dataclass(frozen=True, slots=True)
class Runtime:
    """See the module. What is entered into `stack` ends with the role, in reverse order."""

    worker: executor.ComputeExecutor
    told: health.Health
    report: reporter.Reporter
    stack: contextlib.AsyncExitStack
    clock: ports.Clock


@contextlib.asynccontextmanager
async def started(config: role_config.RoleConfig, *, report: reporter.Reporter) -> AsyncIterator[Runtime]:
    """The runtime of a role, which is told to have stopped at the end."""
    worker = executor.ComputeExecutor(name=f"compute {config.name}", torch_threads=config.torch_threads)
    told = health.Health()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(worker.close)
        await http_server.serve_health(told, config.health_port, stack)
        yield Runtime(worker=worker, told=told, report=report, stack=stack, clock=clock.LoopClock())
    report.say(role_events.RoleEventKind.STOPPED)
