"""The line through transits of frames of different sizes."""

from __future__ import annotations

import pytest

from milliner.strategies import transit_line

ROUND_TRIP_S, RATE = 0.02, 1e6
SMALL, LARGE = 600, 60_000


def feed(estimate: transit_line.TransitLine, *, times: int, rate: float = RATE, late_s: float = 0.0) -> None:
    for _ in range(times):
        for num_bytes in (SMALL, LARGE):
            estimate.observe(num_bytes, ROUND_TRIP_S + num_bytes / rate + late_s)


def test_one_size_says_nothing() -> None:
    estimate = transit_line.TransitLine()
    for _ in range(10):
        estimate.observe(LARGE, 1.0)
    assert estimate.line is None


def test_two_sizes_give_both() -> None:
    estimate = transit_line.TransitLine()
    feed(estimate, times=1)
    assert estimate.line is not None
    assert estimate.line.round_trip_s == pytest.approx(ROUND_TRIP_S)
    assert estimate.line.bytes_per_s == pytest.approx(RATE)


def test_two_late_transits_of_five_do_not_move_it() -> None:
    estimate = transit_line.TransitLine()
    feed(estimate, times=3)
    before = estimate.line
    feed(estimate, times=2, late_s=5.0)
    assert estimate.line == before


def test_a_link_that_changed_is_followed_after_three() -> None:
    estimate = transit_line.TransitLine()
    feed(estimate, times=5)
    feed(estimate, times=3, rate=RATE / 4)
    assert estimate.line is not None
    assert estimate.line.bytes_per_s == pytest.approx(RATE / 4)


def test_a_larger_frame_that_was_no_slower_gives_no_rate() -> None:
    estimate = transit_line.TransitLine()
    estimate.observe(SMALL, 0.5)
    estimate.observe(LARGE, 0.4)
    assert estimate.line is None


def test_a_size_not_seen_for_long_is_forgotten() -> None:
    estimate = transit_line.TransitLine()
    feed(estimate, times=2)
    for _ in range(transit_line.MAX_AGE_FRAMES + 1):
        estimate.observe(SMALL, ROUND_TRIP_S)
    assert estimate.line is None
