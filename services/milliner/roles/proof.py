"""The last proof that a device serves, with its cloud if it has one: when it was, and what it measured. A device's
`GET /probe` tells it.

A token that needed the cloud is a proof, whoever asked for it, and where there is no cloud any token is; figures come
from the last answer that ended well, a user's or a probe's. A cloud that has no room proves no less, but leaves the
figures as they are. Event loop only.
"""

from __future__ import annotations

import math
import statistics

from milliner.core import ports, types
from milliner.telemetry import summary
from milliner.telemetry.phases import Phase

_LONGEST_REASON = 1000  # characters; the operator takes no more than 1,024, and many replicas have many troubles
_ROUND_TRIP = (Phase.NETWORK, Phase.QUEUE, Phase.CLOUD_FORWARD)


class Proof:
    """See the module. One per device; `alone`: there is no cloud."""

    def __init__(self, *, clock: ports.Clock, alone: bool = False) -> None:
        self._clock = clock
        self._alone = alone
        self._at_s = -math.inf
        self._round_trip_s: float | None = None
        self._ttft_s: float | None = None
        self._tokens_per_s: float | None = None
        self._full = False

    @property
    def age_s(self) -> float:
        """Seconds since the last proof; infinite before the first."""
        return self._clock.now() - self._at_s

    def emitted(self, emission: types.Emission) -> None:
        """Tokens became final."""
        if self._alone or any(token.origin is not types.TokenOrigin.DEVICE for token in emission.tokens):
            self._at_s, self._full = self._clock.now(), False

    def probed(self, one: summary.RequestSummary) -> None:
        """A probe succeeded."""
        self._at_s, self._full = self._clock.now(), False
        self.ended(one)

    def refused_for_capacity(self) -> None:
        """A replica that answers has no room: it serves others, so that what was proven before still holds."""
        if math.isfinite(self.age_s):
            self._at_s, self._full = self._clock.now(), True

    def ended(self, one: summary.RequestSummary) -> None:
        """An answer ended, in whatever way."""
        if one.error_type is not None or not one.generated_tokens:
            return
        self._round_trip_s = _round_trip_s(one)
        self._ttft_s = one.ttft_s
        if one.tpot_s:
            self._tokens_per_s = 1.0 / one.tpot_s

    def document(self, *, reason: str, revision: str, model_digest: str) -> dict[str, object]:
        """What `/probe` answers; `reason` says why the device is not ready, or ""."""
        proven = math.isfinite(self.age_s)
        return {
            "ok": proven and not reason,
            "reason": reason[:_LONGEST_REASON],
            "revision": revision,
            "modelDigest": model_digest,
            "roundTripMicroseconds": _scaled(self._round_trip_s, 1e6),
            "timeToFirstTokenMilliseconds": _scaled(self._ttft_s, 1e3),
            "tokensPerSecond": _scaled(self._tokens_per_s, 1.0),
            "cloudIsFull": self._full,
            "ageSeconds": round(self.age_s, 3) if proven else None,
        }


def _round_trip_s(one: summary.RequestSummary) -> float | None:
    """Median over the rounds after the prompt (all rounds where there are none) of what was waited for the cloud."""
    rounds = [each for each in one.rounds if each.kind != "prefill"] or list(one.rounds)
    waits_s = [sum(span.duration_s for span in each.phases if span.phase in _ROUND_TRIP) for each in rounds]
    return statistics.median(waits_s) if waits_s else None


def _scaled(value: float | None, factor: float) -> int | None:
    return None if value is None else round(value * factor)
