"""The line transit = round trip + bytes / rate through frames of different sizes, unmoved by a stall of the link.

Transits are kept apart by size, the last few of each power of two, and each size counts with its median; the rate is
the median of the slopes between sizes (Theil and Sen's estimator). Up to two of five transits of a size may be wrong by
any amount before the line moves, and a link that has changed is followed after three.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import statistics

KEPT_PER_SIZE = 5  # arbitrary: two may be wrong
MIN_SPREAD_BYTES = 4096  # sizes must differ by this much before the slope between them means a rate; arbitrary
MAX_AGE_FRAMES = 1000  # a size not seen for as many frames tells of an older link; arbitrary: a few answers


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """What the transits say."""

    round_trip_s: float
    bytes_per_s: float


class TransitLine:
    """Moving estimate of one link's line."""

    def __init__(self) -> None:
        self._by_size: dict[int, collections.deque[tuple[int, float]]] = {}  # bits of the size: (bytes, seconds)
        self._seen_at: dict[int, int] = {}
        self._num_frames = 0
        self._line: Line | None = None

    @property
    def line(self) -> Line | None:
        """None until frames of different sizes have been seen, and where larger ones were not slower."""
        return self._line

    def observe(self, num_bytes: int, transit_s: float) -> None:
        """Takes a frame into account that found the link idle."""
        self._num_frames += 1
        size = num_bytes.bit_length()
        self._by_size.setdefault(size, collections.deque(maxlen=KEPT_PER_SIZE)).append((num_bytes, transit_s))
        self._seen_at[size] = self._num_frames
        self._forget_old()
        self._line = self._fit()

    def _forget_old(self) -> None:
        for size in [size for size, seen in self._seen_at.items() if self._num_frames - seen > MAX_AGE_FRAMES]:
            del self._by_size[size], self._seen_at[size]

    def _fit(self) -> Line | None:
        points = [tuple(map(statistics.median, zip(*seen, strict=True))) for seen in self._by_size.values()]
        slopes = [
            (second_s - first_s) / (second - first)
            for (first, first_s), (second, second_s) in itertools.combinations(sorted(points), 2)
            if second - first >= MIN_SPREAD_BYTES
        ]
        s_per_byte = statistics.median(slopes) if slopes else 0.0
        if s_per_byte <= 0.0:
            return None
        round_trip_s = statistics.median(seconds - s_per_byte * num_bytes for num_bytes, seconds in points)
        return Line(round_trip_s=max(0.0, round_trip_s), bytes_per_s=1.0 / s_per_byte)
