"""What a device takes for a prompt token and for a step of its own, and the cloud for its first token: measured as it
serves, shared by all its requests."""

from __future__ import annotations

from milliner.engine import delay_model
from milliner.strategies.pd_device import settings

_WEIGHT = 0.3  # of a new sample; arbitrary: settles in about five requests
_UNKNOWN_STEP_S = 0.05  # before the first step: the usual aim for a token; arbitrary
_UNKNOWN_PREFILL_S = 0.002  # before the first chunk: P/D-Device's class of device, 500 tokens a second


class Profile:
    """Moving estimates, with plausible figures before the first request."""

    def __init__(self) -> None:
        self._chunks = delay_model.DelayModel()
        self.step_s = _UNKNOWN_STEP_S
        self.first_token_s = 0.0
        self._num_steps = self._num_first = 0

    @property
    def prefill_s(self) -> float:
        """Seconds for one more token of a chunk."""
        return self._chunks.per_token_s or _UNKNOWN_PREFILL_S

    @property
    def device(self) -> settings.DeviceProfile:
        return settings.DeviceProfile(prefill_s=self.prefill_s, step_s=self.step_s)

    def prefilled(self, num_tokens: int, seconds: float) -> None:
        """A chunk of known tokens was computed."""
        self._chunks.observe_batch(num_tokens, seconds)

    def stepped(self, seconds: float) -> None:
        """A token of its own was generated."""
        self._num_steps += 1
        self.step_s += max(_WEIGHT, 1.0 / self._num_steps) * (seconds - self.step_s)

    def cloud_first_token(self, seconds: float) -> None:
        """The cloud's first token came this long after the request's start."""
        self._num_first += 1
        self.first_token_s += max(_WEIGHT, 1.0 / self._num_first) * (seconds - self.first_token_s)
