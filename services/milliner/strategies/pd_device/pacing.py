"""When each token is shown: the cloud's come faster than anybody reads, and must last until the device goes on.

While the device is behind, what is buffered and expected is spread evenly over the time until it has caught up. Once
it generates, the buffer that is left drains at twice its pace. The interval never leaves [`min_s`, `max_s`], so a bad
estimate costs smoothness, not speed. Pure: the caller passes times.
"""

from __future__ import annotations

import dataclasses

AIM_SHARE = 0.96  # of the longest interval: timers and the way to the client take the rest (arbitrary)
_DRAIN = 0.5  # of the device's time per token, while what the cloud gave is still buffered; arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class Pacing:
    """Limits of the display interval in seconds; `max_s` is the aim for the time per output token."""

    min_s: float
    max_s: float

    def behind(self, *, until_caught_up_s: float, buffered: int, expected: int) -> float:
        """The interval while the device is `until_caught_up_s` from its first own token.

        `buffered` tokens are known and not shown, `expected` are still to come from the cloud.
        """
        return self._clamp(until_caught_up_s / max(1, buffered + expected))

    def caught_up(self, *, step_s: float, buffered: int) -> float:
        """The interval once the device generates a token every `step_s`."""
        return self._clamp(step_s * _DRAIN) if buffered > 1 else 0.0

    def _clamp(self, interval_s: float) -> float:
        return min(AIM_SHARE * self.max_s, max(self.min_s, interval_s))
