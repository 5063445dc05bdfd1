"""How long a draft should be, decided from what was measured. Pure; one per device, shared by its requests.

**Acceptance.** Whether a draft is accepted depends on how sure the drafter was. Drafts are binned by confidence (the
highest draft probability) and each bin keeps a moving acceptance rate that starts at the confidence itself.

**Adaptive rule.** Drafting one more token costs time now, and a little more in the round trip (its position on the wire
and in the cloud, measured), and brings one token with the probability that it and all drafts before it are accepted. At
the current pace of `pace_s` seconds per token it pays for itself when

    P(all accepted up to it) · pace_s  >  cost_s + round trip per position.

The pace is time over tokens of the last rounds, not the mean of their ratios: rounds that yield one token would weigh
far too much in that. Until the first round has been measured, drafts end as with `Fixed` control.

This is the optimal stopping rule for maximising tokens per second (the marginal gain must exceed the average rate).
With a longer round trip the pace is slower and drafts grow, about logarithmically, as they should (docs/algorithms.md).

**Off while it loses.** The pace of plain decoding is estimated from the same rounds without their drafting. While the
measured pace is no better, rounds go without drafts, and every `PROBE_EVERY` rounds a burst of drafted rounds looks
whether that has changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from milliner.engine import delay_model
from milliner.strategies import options as strategy_options

NUM_BINS = 10
BIN_PRIOR_DRAFTS = 8.0  # weight of the prior in drafts; arbitrary
BIN_MEMORY_DRAFTS = 400.0  # drafts that a bin remembers; arbitrary
PACE_WEIGHT = 0.05  # of a new round in the moving sums and paces; arbitrary: about twenty rounds
PROBE_EVERY = 32  # rounds without drafts between two probes; arbitrary: a probe costs at most a tenth
PROBE_ROUNDS = 4  # drafted rounds per probe; arbitrary
MIN_ROUNDS = 8  # drafted rounds before drafting may be switched off; arbitrary


class Acceptance:
    """Acceptance rate by confidence."""

    def __init__(self) -> None:
        self._accepted = [BIN_PRIOR_DRAFTS * (index + 0.5) / NUM_BINS for index in range(NUM_BINS)]
        self._drafted = [BIN_PRIOR_DRAFTS] * NUM_BINS

    def rate(self, confidence: float) -> float:
        index = self._bin(confidence)
        return self._accepted[index] / self._drafted[index]

    def learn(self, confidence: float, *, accepted: bool) -> None:
        index = self._bin(confidence)
        keep = min(1.0, BIN_MEMORY_DRAFTS / (self._drafted[index] + 1.0))
        self._accepted[index] = (self._accepted[index] + accepted) * keep
        self._drafted[index] = (self._drafted[index] + 1.0) * keep

    @staticmethod
    def _bin(confidence: float) -> int:
        return min(NUM_BINS - 1, max(0, int(confidence * NUM_BINS)))


class DraftController:
    """See the module."""

    def __init__(self, options: strategy_options.DraftingOptions) -> None:
        self.options = options
        self.acceptance = Acceptance()
        self._drafted_s = self._drafted_tokens = 0.0  # of drafted rounds, older ones fading
        self.plain_pace_s: float | None = None  # what a round would take without drafts
        self.round_trip = delay_model.DelayModel()  # of positions in the frame
        self._drafted_rounds = 0
        self._off_rounds = 0
        self._probe_left = 0

    @property
    def pace_s(self) -> float | None:
        """Seconds per token in drafted rounds; None before the first."""
        return self._drafted_s / self._drafted_tokens if self._drafted_tokens else None

    @property
    def drafting(self) -> bool:
        """Whether this round should draft at all."""
        match self.options.control:
            case strategy_options.DraftControl.OFF:
                return False
            case strategy_options.DraftControl.FIXED:
                return True
            case strategy_options.DraftControl.ADAPTIVE:
                return not self._losing() or self._probe_left > 0

    def worthwhile(self, confidences: Sequence[float], *, cost_s: float) -> bool:
        """Whether drafting the token that `confidences[-1]` belongs to, after those before it, is worth `cost_s`."""
        if len(confidences) > self.options.max_tokens:
            return False
        pace_s = self.pace_s
        if pace_s is None or self.options.control is strategy_options.DraftControl.FIXED:
            return all(confidence >= self.options.min_confidence for confidence in confidences[:-1])
        return self.reach(confidences) * pace_s > cost_s + self.round_trip.per_token_s

    def reach(self, confidences: Sequence[float]) -> float:
        """The probability that drafts with these confidences are all accepted."""
        probability = 1.0
        for confidence in confidences:
            probability *= self.acceptance.rate(confidence)
        return probability

    def learn_round(
        self, *, num_drafted: int, num_tokens: int, duration_s: float, drafting_s: float, round_trip_s: float
    ) -> None:
        """Takes a finished round: `duration_s` of which `drafting_s` were spent on drafts before the frame was sent."""
        self.round_trip.observe_batch(num_drafted + 1, round_trip_s)
        self.plain_pace_s = _moved(self.plain_pace_s, duration_s - drafting_s)
        if num_drafted > 0:
            self._drafted_rounds += 1
            self._drafted_s += duration_s - PACE_WEIGHT * self._drafted_s
            self._drafted_tokens += num_tokens - PACE_WEIGHT * self._drafted_tokens
            self._probe_left = max(0, self._probe_left - 1)
            return
        self._off_rounds += 1
        if self._off_rounds % PROBE_EVERY == 0:
            self._probe_left = PROBE_ROUNDS

    def _losing(self) -> bool:
        pace_s = self.pace_s
        if pace_s is None or self.plain_pace_s is None or self._drafted_rounds < MIN_ROUNDS:
            return False
        return pace_s > self.plain_pace_s


def _moved(old: float | None, sample: float) -> float:
    return sample if old is None else old + PACE_WEIGHT * (sample - old)
