"""When each token is shown: the cloud's come faster than anybody reads, and must last until the device goes on.

While the device is behind, what is buffered and expected is spread evenly over the time until it has caught up. Once
it generates, the buffer that is left drains at twice its pace, down to a small reserve. The interval never leaves
[`min_s`, `max_s`], so a bad estimate costs smoothness, not speed. Pure: the caller passes times.
"""

from __future__ import annotations

import dataclasses

AIM_SHARE = 0.92  # of the longest interval: timers and the way to the client take the rest (arbitrary)
_RESERVE = 1  # tokens
_DRAIN = 0.5  # of the device's time per token, while what the cloud gave is still buffered; arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class Pacing:
    """Limits of the display interval in seconds; `max_s` is the aim for the time per output token."""

    min_s: float
    max_s: float

    def began(self, *, due_s: float, shown_s: float) -> float:
        """When the next interval begins, after a token that was due at `due_s` and shown at `shown_s`.

        When it was due: timers that are late by a little would otherwise add up. A token that was much later, because
        it was not known, begins a new interval: those behind it do not follow all the faster.
        """
        return min(shown_s, max(due_s, shown_s - (1.0 - AIM_SHARE) * self.max_s))

    def behind(self, *, until_caught_up_s: float, buffered: int, expected: int) -> float:
        """The interval while the device is `until_caught_up_s` from its first own token.

        `buffered` tokens are known and not shown, `expected` are still to come from the cloud.
        """
        return self._clamp(until_caught_up_s / max(1, buffered + expected))

    def caught_up(self, *, step_s: float, buffered: int, complete: bool) -> float:
        """The interval once the device generates a token every `step_s`; `complete`: it has generated its last.

        A token is kept in reserve behind the next one, against a step that takes longer than the others; it is shown
        all the same where the reader would wait longer than the aim.
        """
        reserve = buffered - 1
        if complete or reserve > _RESERVE:
            return self._clamp(step_s * _DRAIN)
        return self._clamp(step_s if reserve == _RESERVE else self.max_s)

    def _clamp(self, interval_s: float) -> float:
        return min(AIM_SHARE * self.max_s, max(self.min_s, interval_s))
