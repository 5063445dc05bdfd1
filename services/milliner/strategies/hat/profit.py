"""Whether drafting pays at all: switched off while it loses, tried again at a bounded price. Pure.

**Paces.** Of drafted rounds: time over tokens of the last ones, not the mean of their ratios, in which rounds of one
token would weigh far too much. Of plain decoding: the device's own part of a draftless round (until there was one, of
a drafted round without its drafting), plus what the link and the cloud take for one position.

**Off** after `MIN_ROUNDS` drafted rounds whose pace is slower than the plain one.

**Trials.** While drafting is off, every round earns `TRIAL_SHARE` of its duration; what the rounds of a trial take
beyond plain decoding is paid from that, and a trial begins only out of debt. So all trials together lose at most that
share of the time, and one trial more. Those that are earned wait, up to `MAX_EARNED_ROUNDS` rounds' worth, while the
drafter's guesses (made while the device waits anyway, and not sent) are seen to be wrong: when the text turns easy,
drafting comes back within a few rounds.
"""

from __future__ import annotations

PACE_WEIGHT = 0.05  # of a new round in the moving sums and paces; arbitrary: about twenty rounds
MIN_ROUNDS = 8  # drafted rounds before drafting may be switched off; arbitrary
MIN_OFF_ROUNDS = 8  # plain rounds before the first trial; arbitrary
TRIAL_ROUNDS = 6  # drafted rounds of a trial; arbitrary
TRIAL_SHARE = 0.01  # of the time may be lost in trials; arbitrary
MAX_EARNED_ROUNDS = 2.0  # arbitrary: what a trial that fails takes
UNSEEN_ROUNDS = 256  # off for so long, a trial is due whatever the guesses were worth; arbitrary


class Profit:
    """See the module."""

    def __init__(self) -> None:
        self.on = True
        self._drafted_s = self._drafted_tokens = 0.0  # of drafted rounds, older ones fading
        self._drafted_rounds = 0  # since drafting was switched on or a trial began
        self._local_s: float | None = None  # the device's part of a plain round
        self._local_is_measured = False
        self._trial = False
        self._earned_s = 0.0
        self._off_rounds = 0

    @property
    def pace_s(self) -> float | None:
        """Seconds per token in drafted rounds; None before the first."""
        return self._drafted_s / self._drafted_tokens if self._drafted_tokens else None

    def plain_pace_s(self, trip_s: float) -> float | None:
        """Seconds per token of plain decoding, where one position takes `trip_s` on link and cloud."""
        return None if self._local_s is None else self._local_s + trip_s

    def learn_drafted(self, *, num_tokens: int, duration_s: float, local_s: float, trip_s: float) -> None:
        """Takes a drafted round; `local_s` is the device's part of it without drafting."""
        if not self._local_is_measured:
            self._local_s = _moved(self._local_s, local_s)
        self._drafted_rounds += 1
        self._drafted_s += duration_s - PACE_WEIGHT * self._drafted_s
        self._drafted_tokens += num_tokens - PACE_WEIGHT * self._drafted_tokens
        pace_s, plain_s = self.pace_s, self.plain_pace_s(trip_s)
        assert pace_s is not None
        assert plain_s is not None
        if self._trial:
            self._earn(num_tokens * plain_s - duration_s, plain_s)
        if self._drafted_rounds >= (TRIAL_ROUNDS if self._trial else MIN_ROUNDS):
            self._trial = False
            self.on = pace_s < plain_s
            if not self.on:
                self._off_rounds = 0

    def learn_plain(self, *, duration_s: float, local_s: float, trip_s: float, promising: bool) -> None:
        """Takes a draftless round; `promising`: what is known of the drafter does not speak against a trial."""
        self._local_s = _moved(self._local_s, local_s) if self._local_is_measured else local_s
        self._local_is_measured = True
        if self.on:
            return
        self._off_rounds += 1
        self._earn(TRIAL_SHARE * duration_s, self._local_s + trip_s)
        due = self._off_rounds >= MIN_OFF_ROUNDS and self._earned_s >= 0.0
        if due and (promising or self._off_rounds >= UNSEEN_ROUNDS):
            self.on = self._trial = True
            self._drafted_s = self._drafted_tokens = 0.0
            self._drafted_rounds = self._off_rounds = 0

    def _earn(self, seconds: float, plain_s: float) -> None:
        self._earned_s = min(self._earned_s + seconds, MAX_EARNED_ROUNDS * plain_s)


def _moved(old: float | None, sample: float) -> float:
    return sample if old is None else old + PACE_WEIGHT * (sample - old)
