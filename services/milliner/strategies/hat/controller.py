"""How long a draft should be, decided from what was measured. Pure; one per device and kind of sampling.

**Adaptive rule.** Drafting one more token costs time now, and a little more in the round trip (its position on the
wire and in the cloud, measured), and brings one token with the probability that it and all drafts before it are
accepted (`acceptance`). At the current pace of `pace_s` seconds per token it pays for itself when

    P(all accepted up to it) · pace_s  >  cost_s + round trip per position.

This is the optimal stopping rule for maximising tokens per second (the marginal gain must exceed the average rate).
With a longer round trip the pace is slower and drafts grow, about logarithmically, as they should
(docs/algorithms.md). Until the first round has been measured, drafts end as with `Fixed` control.

**Off while it loses.** `profit` compares the pace with that of plain decoding.

**Never blind.** What is learnt of acceptance comes from drafts that were sent, and from the guess at the token behind
the last one, which the device makes while it waits. Where it has no time to wait in, rounds without drafts would teach
nothing; each of them earns `EXPLORE_SHARE` of its duration, and when a draft step has been earned one draft is made
and sent whatever it promises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from milliner.engine import delay_model
from milliner.strategies import options as strategy_options
from milliner.strategies.hat import acceptance as acceptances
from milliner.strategies.hat import profit

EXPLORE_SHARE = 0.01  # of the time of rounds that teach nothing goes into drafts that do; arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """A finished round: `drafting_s` went by before the frame was sent, `late_s` after its reply had come.

    `guess` is the confidence of the guess behind the last draft and whether it was right; None where there was none or
    its place was not reached. `step_s` is what a draft step takes.
    """

    num_drafted: int
    num_tokens: int
    duration_s: float
    drafting_s: float
    round_trip_s: float
    late_s: float = 0.0
    guess: tuple[float, bool] | None = None
    step_s: float = 0.0


class DraftController:
    """See the module."""

    def __init__(self, options: strategy_options.DraftingOptions) -> None:
        self.options = options
        self.acceptance = acceptances.Acceptance()
        self.round_trip = delay_model.DelayModel()  # of positions in the frame
        self._profit = profit.Profit()
        self._sum_s = self._sum_tokens = 0.0  # of all rounds, older ones fading
        self._explore_s = 0.0
        self._exploring = False

    @property
    def pace_s(self) -> float | None:
        """Seconds per token of the last rounds; None before the first."""
        return self._sum_s / self._sum_tokens if self._sum_tokens else None

    @property
    def drafting(self) -> bool:
        """Whether this round should draft at all."""
        match self.options.control:
            case strategy_options.DraftControl.OFF:
                return False
            case strategy_options.DraftControl.FIXED:
                return True
            case strategy_options.DraftControl.ADAPTIVE:
                return self._profit.on

    def worthwhile(self, confidences: Sequence[float], *, cost_s: float) -> bool:
        """Whether drafting the token that `confidences[-1]` belongs to, after those before it, is worth `cost_s`."""
        if len(confidences) > self.options.max_tokens:
            return False
        pace_s = self.pace_s
        if pace_s is None or self.options.control is strategy_options.DraftControl.FIXED:
            return all(confidence >= self.options.min_confidence for confidence in confidences[:-1])
        if self._exploring and len(confidences) == 1:
            return True
        return self._pays(self.reach(confidences), pace_s=pace_s, cost_s=cost_s)

    def worth_a_look(self, *, cost_s: float) -> bool:
        """Whether a first draft of unknown confidence is worth `cost_s`."""
        pace_s = self.pace_s
        if pace_s is None or self._exploring or self.options.control is strategy_options.DraftControl.FIXED:
            return True
        return self._pays(self.acceptance.mean, pace_s=pace_s, cost_s=cost_s)

    def reach(self, confidences: Sequence[float]) -> float:
        """The probability that drafts with these confidences are all accepted."""
        probability = 1.0
        for confidence in confidences:
            probability *= self.acceptance.rate(confidence)
        return probability

    def learn_round(self, done: Round) -> None:
        """Takes a finished round."""
        self.round_trip.observe_batch(done.num_drafted + 1, done.round_trip_s)
        self._sum_s += done.duration_s - profit.PACE_WEIGHT * self._sum_s
        self._sum_tokens += done.num_tokens - profit.PACE_WEIGHT * self._sum_tokens
        if done.guess is not None:
            confidence, right = done.guess
            self.acceptance.learn(confidence, accepted=right)
        trip_s = self.round_trip.seconds(1)
        local_s = done.duration_s - done.round_trip_s - done.drafting_s - done.late_s
        if done.num_drafted > 0:
            self._exploring = False
            self._profit.learn_drafted(
                num_tokens=done.num_tokens, duration_s=done.duration_s, local_s=local_s, trip_s=trip_s
            )
            return
        plain_s = local_s + trip_s
        self._profit.learn_plain(
            duration_s=done.duration_s,
            local_s=local_s,
            trip_s=trip_s,
            promising=done.guess is None or self.acceptance.mean * plain_s > done.step_s,
        )
        if self._profit.on and done.guess is None:
            self._explore_s += EXPLORE_SHARE * done.duration_s
            if self._explore_s >= done.step_s + self.round_trip.per_token_s:
                self._explore_s, self._exploring = 0.0, True

    def _pays(self, probability: float, *, pace_s: float, cost_s: float) -> bool:
        return probability * pace_s > cost_s + self.round_trip.per_token_s
