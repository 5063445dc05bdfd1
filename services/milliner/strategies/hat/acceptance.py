"""How often drafts are accepted, by how sure the drafter was. Pure; part of the draft controller.

Drafts are binned by confidence (the share of the drafter's first choice) and each bin keeps a moving acceptance rate
that starts at the confidence itself. Beside the bins one moving mean over all: what a draft is worth before it is
known how sure the drafter will be.
"""

from __future__ import annotations

NUM_BINS = 10
BIN_PRIOR_DRAFTS = 8.0  # weight of the prior in drafts; arbitrary
BIN_MEMORY_DRAFTS = 100.0  # drafts that a bin remembers; arbitrary: a text that turns easy is noticed within as many
MEAN_START = 0.9  # of the mean: worth trying; arbitrary
MEAN_WEIGHT = 0.05  # of a new draft in the mean; arbitrary


class Acceptance:
    """Acceptance rate by confidence, and `mean` over all."""

    def __init__(self) -> None:
        self._accepted = [BIN_PRIOR_DRAFTS * (index + 0.5) / NUM_BINS for index in range(NUM_BINS)]
        self._drafted = [BIN_PRIOR_DRAFTS] * NUM_BINS
        self.mean = MEAN_START

    def rate(self, confidence: float) -> float:
        """The probability that a draft of this confidence is accepted where the one before it was."""
        index = self._bin(confidence)
        return self._accepted[index] / self._drafted[index]

    def learn(self, confidence: float, *, accepted: bool) -> None:
        """Takes a draft whose place the target has reached: was it right?"""
        index = self._bin(confidence)
        keep = min(1.0, BIN_MEMORY_DRAFTS / (self._drafted[index] + 1.0))
        self._accepted[index] = (self._accepted[index] + accepted) * keep
        self._drafted[index] = (self._drafted[index] + 1.0) * keep
        self.mean += MEAN_WEIGHT * (accepted - self.mean)

    @staticmethod
    def _bin(confidence: float) -> int:
        return min(NUM_BINS - 1, max(0, int(confidence * NUM_BINS)))
