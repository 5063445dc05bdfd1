"""How often and how patiently a far place is asked again. Sleeping is a parameter, so that tests do not wait."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable

from milliner.core import errors


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Attempts that bring nothing, and pauses that double; with the defaults about a minute passes before giving up.

    The figures are arbitrary: long enough for a restarting server, short enough that a person learns of a wrong host.
    """

    attempts: int = 8
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0
    sleep: Callable[[float], None] = time.sleep

    def begin(self, *, what: str, field: str) -> Attempts:
        """Attempts at one thing, which `what` names to people."""
        return Attempts(self, what=what, field=field)


PATIENT = RetryPolicy()


class Attempts:
    """Attempts at one thing; not for several threads."""

    def __init__(self, policy: RetryPolicy, *, what: str, field: str) -> None:
        self._policy = policy
        self._what = what
        self._field = field
        self._failed = 0

    def progressed(self) -> None:
        """Something came: failures from now on are counted anew."""
        self._failed = 0

    def failed(self, reason: str, *, retry_after_s: float | None = None) -> None:
        """Sleeps before the next attempt, or raises `UnavailableError` (*expected*) where there were enough."""
        self._failed += 1
        if self._failed >= self._policy.attempts:
            raise errors.UnavailableError(
                f"{self._what} could not be had in {self._failed} attempts ({reason}): check that the host can be "
                "reached from here",
                field=self._field,
            )
        pause_s = min(self._policy.first_pause_s * 2.0 ** (self._failed - 1), self._policy.longest_pause_s)
        pause_s *= random.uniform(0.5, 1.0)  # pods that failed together do not come back together
        if retry_after_s is not None:
            pause_s = max(pause_s, min(retry_after_s, self._policy.longest_pause_s))
        self._policy.sleep(pause_s)
