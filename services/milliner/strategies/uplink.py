"""What a device knows of its link to the cloud: upload rate, round trip, and when the uplink will be free.

Learns from replies only; the caller passes times of the device's clock and durations that the cloud reported, so no
two clocks are compared. Shared by all sessions of a device.

**Rate.** A frame reaches the cloud at (reply received − remote durations − way back). The way back cancels in the
difference of two consecutive frames, so while the link is backlogged the gap between two arrivals is the time that
the second frame's bytes took. Where frames were spaced out by the sender, the gap says nothing and is ignored.

**Round trip.** transit = received − sent − remote = round trip + bytes / rate for a frame sent into an idle link.
"""

from __future__ import annotations

RATE_WEIGHT = 0.3  # of a new sample in the moving average; arbitrary: settles in about five chunks
ROUND_TRIP_WEIGHT = 0.1  # likewise; round trips are noisier and change slowly
BACKLOG_SHARE = 1.25  # arrivals this much further apart than the sends were prove a backlog; arbitrary


class Uplink:
    """Moving estimates of one device's uplink. `bytes_per_s` is None until a backlog has been seen."""

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        self.round_trip_s: float | None = None
        self._free_at_s = 0.0
        self._last: tuple[str, float, float] | None = None  # session, sent, arrived + way back

    def sent(self, *, at_s: float, num_bytes: int) -> None:
        """A frame was handed to the transport."""
        if self.bytes_per_s is not None:
            self._free_at_s = max(self._free_at_s, at_s) + num_bytes / self.bytes_per_s

    def backlog_s(self, *, now_s: float) -> float:
        """Seconds until the uplink has sent what it was given; 0 where the rate is unknown."""
        return max(0.0, self._free_at_s - now_s)

    def upload_s(self, num_bytes: float) -> float | None:
        """Seconds that `num_bytes` occupy the uplink, or None while the rate is unknown."""
        return None if self.bytes_per_s is None else num_bytes / self.bytes_per_s

    def replied(self, *, session_id: str, sent_s: float, received_s: float, remote_s: float, num_bytes: int) -> None:
        """A reply came for a frame of `num_bytes`, sent at `sent_s`; `remote_s` is all that the cloud reported."""
        arrived_s = received_s - remote_s
        previous, self._last = self._last, (session_id, sent_s, arrived_s)
        if previous is not None and previous[0] == session_id:
            _, previous_sent_s, previous_arrived_s = previous
            gap_s = arrived_s - previous_arrived_s
            if sent_s < previous_arrived_s and gap_s > BACKLOG_SHARE * (sent_s - previous_sent_s):
                self._learn_rate(num_bytes / gap_s)
                return
        upload_s = self.upload_s(num_bytes)
        if upload_s is not None:
            self._learn_round_trip(max(0.0, arrived_s - sent_s - upload_s))

    def _learn_rate(self, sample: float) -> None:
        old = self.bytes_per_s
        self.bytes_per_s = sample if old is None else old + RATE_WEIGHT * (sample - old)

    def _learn_round_trip(self, sample_s: float) -> None:
        old = self.round_trip_s
        self.round_trip_s = sample_s if old is None else old + ROUND_TRIP_WEIGHT * (sample_s - old)
