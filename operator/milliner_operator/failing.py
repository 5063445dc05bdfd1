"""Topologies whose passes fail: from when on the status says so, and what it says then.

A pass that raises writes no status, and the last one would stand for ever. One failure says little: a conflict, or an
API server that starts anew, is over with the next pass. So a failure is told once `_FAILURES` passes in a row have
failed, or those of `_PATIENCE_S`. `Failing` is the memory of that, which decides nothing else.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from milliner_operator import conditions, errors
from milliner_operator.conditions import Condition, Reason, Type
from milliner_operator.queue import Key

_FAILURES = 3  # arbitrary: with the queue's backoff about four seconds
_PATIENCE_S = 30.0  # arbitrary: for passes that fail only after their deadlines
_MESSAGE_CHARACTERS = 500
_NEVER_READY = (Reason.RECONCILING.value,)  # of a topology's first status


@dataclasses.dataclass(slots=True)
class _Run:
    since_s: float
    failures: int = 0


class Failing:
    """How long each topology's passes have been failing; `now` is monotonic, in seconds."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._runs: dict[Key, _Run] = {}

    def failed(self, key: Key) -> bool:
        """Takes note of a failure; returns whether it is to be told."""
        run = self._runs.setdefault(key, _Run(self._now()))
        run.failures += 1
        return run.failures >= _FAILURES or self._now() - run.since_s >= _PATIENCE_S

    def ended_well(self, key: Key) -> None:
        self._runs.pop(key, None)


def words(error: Exception) -> str:
    """What the status says of an error; of one that nobody expected, that the operator's log has more."""
    while isinstance(error, ExceptionGroup):  # of looks that run side by side
        error = error.exceptions[0]
    if isinstance(error, errors.ApiError):
        text = f"the API server's answer {error}" if error.status else error.message
    elif isinstance(error, TimeoutError):
        text = "a pass over the topology does not end in time"
    else:
        text = f"{type(error).__name__}: {error} (see the operator's log)"
    return text[:_MESSAGE_CHARACTERS]


def status(generation: int, *, message: str, before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """The status of a topology whose passes fail: all that was told stands, but whether it is ready is not known.

    It stays False where it was, and is False where it has never been ready. Equal to `before` when nothing changed.
    """
    told = list(before.get("conditions") or ())
    was: Mapping[str, Any] = next((each for each in told if each.get("type") == Type.READY.value), {})
    known = was.get("status") == "False" or not was or was.get("reason") in _NEVER_READY
    found = [
        Condition(Type.READY, False if known else None, Reason.RECONCILE_ERROR, message),
        Condition(Type.DEGRADED, None, Reason.RECONCILE_ERROR, message),
    ]
    replaced = {each["type"]: each for each in conditions.merged(found, before=told, generation=generation, now=now)}
    kept = [replaced.pop(each.get("type"), each) for each in told]
    return {**before, "observedGeneration": generation, "conditions": [*kept, *replaced.values()]}
