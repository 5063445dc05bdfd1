"""Running coroutines side by side under a TaskGroup, with one error out instead of a group of them; waiting for an
event on the caller's clock; cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from milliner.core import errors, ports

A = TypeVar("A")
B = TypeVar("B")


async def both(first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B]) -> tuple[A, B]:
    """Runs two coroutines concurrently; when one fails the other is cancelled and awaited.

    Raises the failure itself: an expected error (`MillinerError`) rather than a bug that it dragged along, and the
    first one where both are of a kind.
    """
    try:
        async with asyncio.TaskGroup() as group:
            first_task = group.create_task(first)
            second_task = group.create_task(second)
    except BaseExceptionGroup as failures:
        raise _cause(failures) from None
    return first_task.result(), second_task.result()


async def set_within(event: asyncio.Event, within_s: float, *, clock: ports.Clock) -> bool:
    """Waits for `event`, `within_s` seconds of `clock` at most; whether it is set. Nothing is left running."""
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(max(0.0, within_s)))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    return event.is_set()


def being_cancelled() -> bool:
    """Whether a `CancelledError` is meant for the running task; grpc.aio raises the same when a call is cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _cause(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    leaves = list(_leaves(failures))
    return next((leaf for leaf in leaves if isinstance(leaf, errors.MillinerError)), leaves[0])


def _leaves(failures: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    leaves: list[BaseException] = []
    for failure in failures.exceptions:
        leaves.extend(_leaves(failure) if isinstance(failure, BaseExceptionGroup) else [failure])
    return leaves
