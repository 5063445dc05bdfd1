"""The executor: order, padding, overruns, errors, cancelling and closing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from milliner.engine import executor


@pytest.fixture
def worker() -> Iterator[executor.ComputeExecutor]:
    worker = executor.ComputeExecutor(name="test")
    yield worker
    worker.close()


async def test_runs_away_from_the_event_loop_in_one_thread_in_order(worker: executor.ComputeExecutor) -> None:
    seen: list[tuple[int, int]] = []

    def note(index: int) -> int:
        seen.append((index, threading.get_ident()))
        return index

    results = await asyncio.gather(*(worker.run(lambda index=index: note(index)) for index in range(20)))  # type: ignore[misc]
    assert [result for result, _ in results] == list(range(20))
    assert [index for index, _ in seen] == list(range(20))
    assert {ident for _, ident in seen} != {threading.get_ident()}
    assert len({ident for _, ident in seen}) == 1
    assert worker.calls == 20


async def test_pads_to_the_modelled_duration_and_counts_it_as_busy(worker: executor.ComputeExecutor) -> None:
    _, duration_s = await worker.run(lambda: None, modelled_s=0.05)
    assert duration_s >= 0.05
    assert worker.overruns == 0
    assert worker.busy_s == pytest.approx(duration_s)


async def test_padding_may_depend_on_the_result(worker: executor.ComputeExecutor) -> None:
    result, duration_s = await worker.run(lambda: 3, modelled_s=lambda count: count * 0.02)
    assert result == 3
    assert duration_s >= 0.06


async def test_compute_beyond_its_model_is_an_overrun_and_is_not_padded(worker: executor.ComputeExecutor) -> None:
    await worker.run(lambda: time.sleep(0.02), modelled_s=0.001)
    await worker.run(lambda: None, modelled_s=0.001)
    assert (worker.calls, worker.overruns) == (2, 1)


async def test_what_is_not_emulated_beside_what_is_counts_as_no_overrun(worker: executor.ComputeExecutor) -> None:
    """A topology may emulate the link and one submodel: the others cost nothing extra, and 0 cannot be kept."""
    await worker.run(lambda: time.sleep(0.002), modelled_s=0.0)
    await worker.run(lambda: 1, modelled_s=lambda _: 0.0)
    assert (worker.calls, worker.overruns) == (2, 0)


async def test_an_error_reaches_the_caller_and_the_worker_goes_on(worker: executor.ComputeExecutor) -> None:
    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await worker.run(fail, modelled_s=10.0)  # an error is not padded: the test would time out
    assert (await worker.run(lambda: 1))[0] == 1


async def test_a_cancelled_wait_drops_a_call_that_has_not_started(worker: executor.ComputeExecutor) -> None:
    gate = threading.Event()
    ran: list[int] = []
    blocking = asyncio.create_task(worker.run(lambda: gate.wait(5)))
    waiting = asyncio.create_task(worker.run(lambda: ran.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await blocking
    await worker.run(lambda: None)
    assert ran == []


async def test_close_is_idempotent_and_refuses_new_calls(worker: executor.ComputeExecutor) -> None:
    worker.close()
    worker.close()
    with pytest.raises(RuntimeError):
        await worker.run(lambda: None)


async def test_sets_torch_threads_of_the_worker_only() -> None:
    import torch

    before = torch.get_num_threads()
    other = 1 if before != 1 else 2
    worker = executor.ComputeExecutor(name="threads", torch_threads=other)
    try:
        assert (await worker.run(torch.get_num_threads))[0] == other
        assert torch.get_num_threads() == before
    finally:
        worker.close()
