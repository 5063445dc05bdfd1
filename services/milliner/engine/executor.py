"""One worker thread per accelerator: the only place where torch runs, so that the event loop never waits for compute.

Calls run first in, first out, one at a time. On an emulated accelerator every call is padded to a modelled duration:
the worker computes, then sleeps until `start + modelled_s`, and counts as busy all the while; a call that took longer
than its model is an overrun. Called from the event loop by the cloud engine and by the device's compute. A process that
has one keeps the memory that tensors give back (`core.freed_memory`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent import futures
from typing import Generic, TypeVar

from milliner.core import freed_memory, time_slices

T = TypeVar("T")

ModelledDuration = float | Callable[[T], float]


class ComputeExecutor:
    """Runs callables on one worker thread and says how long each took.

    `torch_threads` sets torch's intra-operator threads *of the worker* (OpenMP keeps that number per thread);
    None leaves torch alone, so that tests and simulators need not import it.
    """

    def __init__(self, *, name: str, torch_threads: int | None = None) -> None:
        self.name = name
        self.calls = 0
        self.overruns = 0  # calls whose real compute took longer than the modelled duration
        self.busy_s = 0.0  # compute and padding together
        self._torch_threads = torch_threads
        freed_memory.keep()
        self._pool = futures.ThreadPoolExecutor(max_workers=1, thread_name_prefix=name, initializer=self._prepare)

    async def run(self, fn: Callable[[], T], *, modelled_s: ModelledDuration[T] | None = None) -> tuple[T, float]:
        """Runs `fn` on the worker and returns its result with its duration in seconds, padding included.

        `modelled_s` is the duration to pad to, or a function of the result that gives it (evaluated on the worker);
        0 is that of a submodel that is not emulated: such a call takes what it takes and is no overrun.
        What `fn` raises is raised here, unpadded. Cancelling the wait drops a call that has not started; one that
        has runs to its end and its result is lost. After `close` the waiting calls are cancelled.
        """
        job = _Job(executor=self, fn=fn, modelled_s=modelled_s)
        return await asyncio.wrap_future(self._pool.submit(job.run))

    def close(self) -> None:
        """Refuses new calls and cancels waiting ones; returns at once. A running call ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self) -> None:
        time_slices.for_compute()
        if self._torch_threads is not None:
            import torch  # here, because whoever only needs the queue must not pay for the import

            torch.set_num_threads(self._torch_threads)


class _Job(Generic[T]):
    """One call on the worker thread; the executor's counters change only there."""

    __slots__ = ("executor", "fn", "modelled_s")

    def __init__(
        self, *, executor: ComputeExecutor, fn: Callable[[], T], modelled_s: ModelledDuration[T] | None
    ) -> None:
        self.executor = executor
        self.fn = fn
        self.modelled_s = modelled_s

    def run(self) -> tuple[T, float]:
        start = time.perf_counter()
        self.executor.calls += 1
        try:
            result = self.fn()
            if self.modelled_s is not None:
                modelled_s = self.modelled_s(result) if callable(self.modelled_s) else self.modelled_s
                remaining_s = start + modelled_s - time.perf_counter()
                if remaining_s >= 0:
                    time.sleep(remaining_s)
                elif modelled_s > 0:
                    self.executor.overruns += 1
        finally:
            duration_s = time.perf_counter() - start
            self.executor.busy_s += duration_s
        return result, duration_s
