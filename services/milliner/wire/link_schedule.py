"""When a packet that enters an emulated link comes out: bandwidth, delay, jitter and loss as plain arithmetic.

A direction is one first-in-first-out bottleneck that all connections share. A packet waits until those before it are
serialised, takes `bytes / bytes_per_s` itself, then travels `delay_s` plus its jitter. Order is kept: a packet never
overtakes, so a late one holds up those behind it, as TCP would. A lost packet is sent again one retransmission later
and takes its bandwidth again. TCP's congestion control is not modelled: the link is used fully at once.
No clock and no sockets here: the caller says what time it is.
"""

from __future__ import annotations

import dataclasses
import random


@dataclasses.dataclass(frozen=True, slots=True)
class LinkConditions:
    """An access link as a device sees it. Bandwidths in bytes per second; `loss_share` of packets, 0 to below 1."""

    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    round_trip_s: float
    jitter_s: float = 0.0  # a packet's one-way delay lies within ± half of it, so the round trip within ± all of it
    loss_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        assert self.uplink_bytes_per_s > 0, "uplink_bytes_per_s must be positive"
        assert self.downlink_bytes_per_s > 0, "downlink_bytes_per_s must be positive"
        assert self.round_trip_s >= 0, "round_trip_s must not be negative"
        assert self.jitter_s >= 0, "jitter_s must not be negative"
        assert 0 <= self.loss_share < 1, "loss_share must be at least 0 and below 1"


class Direction:
    """One direction's schedule."""

    def __init__(self, conditions: LinkConditions, *, bytes_per_s: float, generator: random.Random) -> None:
        self._bytes_per_s = bytes_per_s
        self._delay_s = conditions.round_trip_s / 2
        self._jitter_s = conditions.jitter_s
        self._loss_share = conditions.loss_share
        self._retransmit_s = conditions.round_trip_s  # fast retransmit: the loss is known one round trip later
        self._generator = generator
        self._free_s = float("-inf")  # when the bottleneck has serialised everything admitted
        self._last_arrival_s = float("-inf")

    def admit(self, now_s: float, num_bytes: int) -> float:
        """The time at which a packet of `num_bytes` that enters at `now_s` arrives at the other end."""
        serialise_s = num_bytes / self._bytes_per_s
        self._free_s = max(self._free_s, now_s) + serialise_s
        arrival_s = self._free_s + self._delay_s + self._jitter_s * (self._generator.random() - 0.5)
        while self._loss_share and self._generator.random() < self._loss_share:
            self._free_s += serialise_s
            arrival_s = max(arrival_s, self._free_s + self._delay_s) + self._retransmit_s
        self._last_arrival_s = max(self._last_arrival_s, arrival_s, now_s)
        return self._last_arrival_s
