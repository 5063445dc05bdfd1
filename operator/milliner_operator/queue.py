"""A work queue of keys: each at most once at a time, again when asked for meanwhile, backoff after failures.

`add` brings a key forward and never puts it off; passes of one key are at least `_SPACING_S` apart, so that a storm of
events costs one pass. `handle` returns when the key is to be looked at again, or None to forget it. Keys that are slow
for reasons of others have workers of their own, so that they hold up only one another.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable

from milliner_operator import errors

Key = tuple[str, str]  # namespace, name
Handle = Callable[[Key], Awaitable[float | None]]

_logger = logging.getLogger(__name__)
_SPACING_S = 1.0
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
_PASS_S = 150.0  # arbitrary: above a pass's own deadline and the telling that it was missed
_BEAT_S = 5.0
_STALLED_S = 30.0


@dataclasses.dataclass(slots=True)
class _Entry:
    due: float
    running: bool = False
    again: float | None = None
    failures: int = 0
    last_start: float = float("-inf")


class WorkQueue:
    """Runs `handle` for keys; `now` is monotonic, in seconds; `len` may be asked from any thread."""

    def __init__(
        self,
        handle: Handle,
        *,
        workers: int = 4,
        is_slow: Callable[[Key], bool] = lambda key: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handle = handle
        self._is_slow = is_slow
        self._free = {False: workers, True: workers}  # by whether it is for slow keys
        self._now = now
        self._entries: dict[Key, _Entry] = {}
        self._changed = asyncio.Event()
        self._beat = float("-inf")

    def __len__(self) -> int:
        """Keys that are due or running."""
        now = self._now()
        return sum(1 for each in list(self._entries.values()) if each.running or each.due <= now)

    def add(self, key: Key, *, delay_s: float = 0.0) -> None:
        """Makes `key` due after `delay_s` at the latest."""
        due = self._now() + delay_s
        entry = self._entries.setdefault(key, _Entry(due=due))
        if entry.running:
            entry.again = due if entry.again is None else min(entry.again, due)
        else:
            entry.due = min(entry.due, max(due, entry.last_start + _SPACING_S))
        self._changed.set()

    def forget(self, namespace: str) -> None:
        """Drops the keys of a namespace; those that run are dropped by a later call."""
        for key in [key for key, each in self._entries.items() if key[0] == namespace and not each.running]:
            del self._entries[key]

    def is_alive(self) -> bool:
        """Whether the dispatcher has turned lately; False makes the liveness probe fail."""
        return self._now() - self._beat < _STALLED_S

    async def run(self) -> None:
        """Dispatches until cancelled; what runs is cancelled with it."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._beat = now = self._now()
                waiting = [(each.due, key) for key, each in self._entries.items() if not each.running]
                for _, key in sorted(each for each in waiting if each[0] <= now):
                    self._start(group, key)
                next_due = min((due for due, _ in waiting if due > now), default=now + _BEAT_S)
                await self._sleep(min(max(next_due - now, 0.0), _BEAT_S))

    def _start(self, group: asyncio.TaskGroup, key: Key) -> None:
        """Starts a pass, unless all workers are busy: then the key stays due, and the next that ends wakes the loop."""
        slow = self._is_slow(key)
        if self._free[slow] == 0:
            return
        self._free[slow] -= 1
        entry = self._entries[key]
        entry.running, entry.last_start = True, self._now()
        group.create_task(self._pass(key, entry, slow=slow), name=f"reconcile {'/'.join(key)}")

    async def _pass(self, key: Key, entry: _Entry, *, slow: bool) -> None:
        try:
            async with asyncio.timeout(_PASS_S):
                delay = await self._handle(key)
            entry.failures = 0
        except Exception as error:
            delay = _BACKOFF_S[min(entry.failures, len(_BACKOFF_S) - 1)]
            entry.failures += 1
            expected = isinstance(error, TimeoutError | errors.OperatorError)
            _logger.warning("%s/%s: %s; again in %.0f s", *key, error or "timed out", delay, exc_info=not expected)
        finally:
            entry.running = False
            self._free[slow] += 1
            self._changed.set()
        self._reschedule(key, entry, delay)

    def _reschedule(self, key: Key, entry: _Entry, delay: float | None) -> None:
        again, entry.again = entry.again, None
        if delay is None and again is None:
            del self._entries[key]
            return
        wanted = [*([] if delay is None else [self._now() + delay]), *([] if again is None else [again])]
        entry.due = max(min(wanted), entry.last_start + _SPACING_S)

    async def _sleep(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._changed.wait()
        except TimeoutError:
            pass  # the time has come without a change
        self._changed.clear()
