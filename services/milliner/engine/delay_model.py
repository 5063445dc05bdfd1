"""Moving estimates of how long a batch takes, g(x) = a + b · x, and of how many tokens others bring into it (μ).

Recursive least squares with forgetting over the regressors (1, x): old batches fade, so the estimate follows a GPU that
is shared or throttled. Forgetting alone lets the covariance grow without bound while all batches have one size, and
the next different size would then throw the estimate about; the trace is capped for that reason. The device uses
the figures to choose its chunk size (docs/algorithms.md). Called on the event loop after every batch; torch-free.
"""

from __future__ import annotations

# Weight of the past per batch, for both estimates: a memory of about 50 batches. Arbitrary.
FORGETTING = 0.98
# Tokens are counted in units of this many, so that both coefficients have the same order of magnitude. Arbitrary.
TOKEN_UNIT = 256.0
# Start and cap of the covariance's trace; large against 1, so that two batches of different size fix the line.
MAX_TRACE = 2e4


class DelayModel:
    """Estimates of g(x) and μ; all zero until the first batch."""

    def __init__(self) -> None:
        self.num_batches = 0
        self._fixed_s = 0.0
        self._per_unit_s = 0.0
        self._p11, self._p12, self._p22 = MAX_TRACE / 2, 0.0, MAX_TRACE / 2
        self._other_tokens = 0.0
        self._num_frames = 0

    @property
    def fixed_s(self) -> float:
        """a, never negative: a line through noisy points may have one, a duration cannot."""
        return max(0.0, self._fixed_s)

    @property
    def per_token_s(self) -> float:
        """b, never negative."""
        return max(0.0, self._per_unit_s / TOKEN_UNIT)

    @property
    def other_tokens(self) -> float:
        """μ: moving average of the tokens of other sessions in a frame's batch."""
        return self._other_tokens

    def seconds(self, num_tokens: int) -> float:
        """The expected duration of a batch of `num_tokens` tokens."""
        return self.fixed_s + self.per_token_s * num_tokens

    def observe_batch(self, num_tokens: int, duration_s: float) -> None:
        """Takes a finished batch into account."""
        x = num_tokens / TOKEN_UNIT
        px1 = self._p11 + self._p12 * x
        px2 = self._p12 + self._p22 * x
        scale = 1.0 / (FORGETTING + px1 + px2 * x)
        gain1, gain2 = px1 * scale, px2 * scale
        error_s = duration_s - (self._fixed_s + self._per_unit_s * x)
        self._fixed_s += gain1 * error_s
        self._per_unit_s += gain2 * error_s
        p11 = (self._p11 - gain1 * px1) / FORGETTING
        p12 = (self._p12 - gain1 * px2) / FORGETTING
        p22 = (self._p22 - gain2 * px2) / FORGETTING
        shrink = min(1.0, MAX_TRACE / (p11 + p22))
        self._p11, self._p12, self._p22 = p11 * shrink, p12 * shrink, p22 * shrink
        self.num_batches += 1

    def observe_frame(self, other_tokens: int) -> None:
        """Takes into account that a frame shared its batch with `other_tokens` tokens of other sessions."""
        self._num_frames += 1
        weight = max(1.0 - FORGETTING, 1.0 / self._num_frames)  # a plain mean until the memory is full
        self._other_tokens += weight * (other_tokens - self._other_tokens)
