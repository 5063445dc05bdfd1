"""What a device knows of its link to the cloud: upload rate, round trip, and when the uplink will be free.

Learns from replies only; the caller passes times of the device's clock and durations that the cloud reported, so no
two clocks are compared. Shared by all sessions of a device.

**Rate.** A frame reaches the cloud at (reply received − remote durations − way back). The way back cancels in the
difference of two consecutive frames, so while the link is backlogged the gap between two arrivals is the time that
the second frame's bytes took. Where frames were spaced out by the sender, the gap says nothing; once the round trip
is known, it tells the two cases apart (the frame before had left at its arrival − round trip).

**Round trip.** transit = received − sent − remote = round trip + bytes / rate for a frame sent into an idle link. A
line through transits of small frames (verifications) and large ones (chunks) gives both, so the rate is known even
where no prompt was ever long enough for a backlog.

**Against bad luck.** A stall of the link looks like a slow link, and then, when what it held up comes all at once, like
a fast one. So both estimates are medians. A sender that spaces its frames by too low a rate never sees a backlog again.
So a rate by which a frame could not yet have arrived is forgotten, and what is believed to be on its way is at most
what was sent after the last frame that was answered.
"""

from __future__ import annotations

import collections
import statistics

from milliner.strategies import transit_line

RATES_KEPT = 5  # arbitrary: two may be wrong, and a link that changes is followed after three chunks
DISPROOF_SHARE = 1.25  # a rate that makes a transit this much longer than it was is wrong, not jitter; arbitrary
BACKLOG_SHARE = 1.25  # arrivals this much further apart than the sends were prove a backlog; arbitrary


class Uplink:
    """Moving estimates of one device's uplink."""

    def __init__(self) -> None:
        self._backlog_rates: collections.deque[float] = collections.deque(maxlen=RATES_KEPT)  # bytes per second
        self._transit = transit_line.TransitLine()
        self._free_at_s = 0.0
        self._unanswered: collections.deque[tuple[float, int]] = collections.deque()  # sent at, bytes
        self._last: tuple[str, float, float] | None = None  # session, sent, arrived + way back

    @property
    def bytes_per_s(self) -> float | None:
        """The upload rate; None until a backlog, or frames of different sizes, have been seen."""
        line = self._transit.line
        votes = [*self._backlog_rates, *([] if line is None else [line.bytes_per_s])]
        # Of an even number the faster: a stall in a first prompt is then outvoted by one good chunk.
        return statistics.median_high(votes) if votes else None

    def sent(self, *, at_s: float, num_bytes: int) -> None:
        """A frame was handed to the transport."""
        self._unanswered.append((at_s, num_bytes))
        if (rate := self.bytes_per_s) is not None:
            self._free_at_s = max(self._free_at_s, at_s) + num_bytes / rate

    def backlog_s(self, *, now_s: float) -> float:
        """Seconds until the uplink has sent what it was given; 0 where the rate is unknown."""
        return max(0.0, self._free_at_s - now_s)

    def upload_s(self, num_bytes: float) -> float | None:
        """Seconds that `num_bytes` occupy the uplink, or None while the rate is unknown."""
        rate = self.bytes_per_s
        return None if rate is None else num_bytes / rate

    def replied(self, *, session_id: str, sent_s: float, received_s: float, remote_s: float, num_bytes: int) -> None:
        """A reply came for a frame of `num_bytes`, sent at `sent_s`; `remote_s` is all that the cloud reported."""
        arrived_s = received_s - remote_s
        self._forget_if_disproved(num_bytes, arrived_s - sent_s)
        self._forget_what_left(sent_s, now_s=received_s)
        previous, self._last = self._last, (session_id, sent_s, arrived_s)
        if previous is not None and previous[0] == session_id:
            _, previous_sent_s, previous_arrived_s = previous
            gap_s = arrived_s - previous_arrived_s
            if gap_s <= 0.0:
                return  # the way back stalled and delivered both replies at once: nothing can be learnt
            if self._had_to_wait(sent_s, gap_s, previous_sent_s=previous_sent_s, previous_arrived_s=previous_arrived_s):
                self._backlog_rates.append(num_bytes / gap_s)
                return
            if self._round_trip_s is None and sent_s < previous_arrived_s:
                return  # whether it found the link idle is unknown
        self._transit.observe(num_bytes, arrived_s - sent_s)

    @property
    def _round_trip_s(self) -> float | None:
        """The transit of no bytes at all; None until frames of different sizes have been seen."""
        line = self._transit.line
        return None if line is None else line.round_trip_s

    def _forget_if_disproved(self, num_bytes: int, transit_s: float) -> None:
        """A frame's own upload is a part of its transit: a rate by which it takes longer is wrong."""
        limit_s = DISPROOF_SHARE * transit_s - (self._round_trip_s or 0.0)
        possible = [rate for rate in self._backlog_rates if num_bytes / rate <= limit_s]
        self._backlog_rates = collections.deque(possible, maxlen=RATES_KEPT)

    def _forget_what_left(self, sent_s: float, *, now_s: float) -> None:
        """The frame sent at `sent_s` was answered at `now_s`, so it has left, and all that went before it."""
        while self._unanswered and self._unanswered[0][0] <= sent_s:
            self._unanswered.popleft()
        rate = self.bytes_per_s
        left_s = 0.0 if rate is None else sum(num_bytes for _, num_bytes in self._unanswered) / rate
        self._free_at_s = min(self._free_at_s, now_s + left_s)

    def _had_to_wait(self, sent_s: float, gap_s: float, *, previous_sent_s: float, previous_arrived_s: float) -> bool:
        """Whether a frame was sent before the one before it had left, so that their gap is its own upload.

        Without that, a sender that spaces its frames by too slow an estimate would find it confirmed for ever.
        """
        if self._round_trip_s is not None:
            return sent_s < previous_arrived_s - self._round_trip_s
        return sent_s < previous_arrived_s and gap_s > BACKLOG_SHARE * (sent_s - previous_sent_s)
