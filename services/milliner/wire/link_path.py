"""One direction of the emulated link: packets of all connections on their way, each delivered at its time.

What arrives goes to a `Sink`, who may send is told to the `Source`s; the sockets behind them are `link_end`'s. Works
with timers of the running event loop; deadlines are absolute, so lateness of the loop does not add up. A loop that is
also busy with other work delivers late: `max_lateness_s` says how late.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import random
from typing import Protocol

from milliner.wire import link_schedule

_QUEUE_S = 0.05  # data that may wait in front of the bottleneck (arbitrary; home routers hold more)
_PACKET_S = 0.002  # a packet's share of the bottleneck's time (arbitrary), within the two limits below
_MIN_PACKET_BYTES = 1500  # Ethernet's
_MAX_PACKET_BYTES = 16384
# Event loops wait in whole milliseconds, rounded up (epoll). Timers are set early by what keeps the median of lateness
# at zero; it is learnt in these steps, up to the limit (arbitrary: small beside a round trip, quick to settle).
_EARLY_STEP_S = 20e-6
_MAX_EARLY_S = 0.002


class Ending(enum.Enum):
    """What may follow a connection's last byte; it travels as the data does."""

    HALF_CLOSED = enum.auto()  # no more from that side
    CLOSED = enum.auto()


class Sink(Protocol):
    """Where packets arrive."""

    def deliver(self, content: bytes | Ending) -> None: ...


class Source(Protocol):
    """A connection that is read into a path."""

    def regulate(self) -> None:
        """Looks at `Path.takes_more` and reads on or pauses."""
        ...

    def abort(self) -> None:
        """Resets the connection at once."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class _Packet:
    arrival_s: float
    sink: Sink
    content: bytes | Ending


class Path:
    """Packets in order, up to a limit beyond which the sources are not read."""

    def __init__(self, conditions: link_schedule.LinkConditions, *, bytes_per_s: float, seed: str) -> None:
        self._schedule = link_schedule.Direction(
            conditions, bytes_per_s=bytes_per_s, generator=random.Random(f"{conditions.seed} {seed}")
        )
        self.packet_bytes = round(min(max(bytes_per_s * _PACKET_S, _MIN_PACKET_BYTES), _MAX_PACKET_BYTES))
        self._limit_bytes = bytes_per_s * (_QUEUE_S + conditions.round_trip_s / 2) + self.packet_bytes
        self.sources: set[Source] = set()
        self.num_bytes = 0
        self.max_lateness_s = 0.0
        self._early_s = 0.0005
        self._loop = asyncio.get_running_loop()
        self._packets: collections.deque[_Packet] = collections.deque()
        self._waiting_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._cut = False

    @property
    def takes_more(self) -> bool:
        """Whether the connections may be read."""
        return not self._cut and self._waiting_bytes < self._limit_bytes

    def put(self, sink: Sink, content: bytes | Ending) -> None:
        """A packet enters on its way to `sink`."""
        num_bytes = 0 if isinstance(content, Ending) else len(content)
        self._packets.append(_Packet(self._schedule.admit(self._loop.time(), num_bytes), sink, content))
        self._waiting_bytes += num_bytes
        self.num_bytes += num_bytes
        self._arm()

    def set_cut(self, cut: bool) -> None:
        """Holds all packets, or lets them go on: the overdue ones at once, as retransmissions would arrive."""
        self._cut = cut
        if cut:
            self.stop()
        else:
            self._arm()
        self._regulate()

    def stop(self) -> None:
        """Delivers nothing more until the next packet enters."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is None and self._packets and not self._cut:
            self._timer = self._loop.call_at(self._packets[0].arrival_s - self._early_s, self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        step_s = _EARLY_STEP_S if now_s > self._packets[0].arrival_s else -_EARLY_STEP_S
        while self._packets and self._packets[0].arrival_s - self._early_s <= now_s:
            packet = self._packets.popleft()
            if not isinstance(packet.content, Ending):
                self._waiting_bytes -= len(packet.content)
            self.max_lateness_s = max(self.max_lateness_s, now_s - packet.arrival_s)
            packet.sink.deliver(packet.content)
        self._early_s = min(max(self._early_s + step_s, 0.0), _MAX_EARLY_S)
        self._arm()
        self._regulate()

    def _regulate(self) -> None:
        for source in self.sources:
            source.regulate()
