"""Running an engine over a toy backend, and holding it before a batch. Shared by the engine's tests."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

from milliner.core import clock as clocks
from milliner.core import compute, ports
from milliner.engine import engine, executor, limits, scheduler, work

from . import toys

CONFIG = limits.EngineConfig(
    kv_cache_bytes=0, max_batch_tokens=8, max_sessions=4, session_idle_s=100, max_frame_tokens=24
)


@contextlib.asynccontextmanager
async def serving(
    backend: toys.ToyBackend,
    *,
    config: limits.EngineConfig = CONFIG,
    clock: ports.Clock | None = None,
    cost: compute.ComputeCost | None = None,
    policy: scheduler.SchedulingPolicy | None = None,
) -> AsyncIterator[engine.Engine]:
    worker = executor.ComputeExecutor(name="test")
    built = engine.Engine(
        backend, config=config, executor=worker, clock=clock or clocks.LoopClock(), cost=cost, policy=policy
    )
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(built.run())
            yield built
            await built.stop()
    finally:
        worker.close()


class Gate:
    """Holds the backend before its next batch, so that a test can queue work behind it."""

    def __init__(self, backend: toys.ToyBackend) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        backend.gate = self._wait

    def _wait(self) -> None:
        self.entered.set()
        assert self.opened.wait(10)

    async def until_busy(self) -> None:
        await asyncio.to_thread(self.entered.wait, 10)


def values(done: work.Done) -> str:
    assert done.payload is not None
    return done.payload.data.decode()
