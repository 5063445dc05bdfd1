"""When tokens are shown."""

from __future__ import annotations

import pytest

from milliner.strategies.pd_device import pacing

PACING = pacing.Pacing(min_s=0.005, max_s=0.05)


def test_what_is_there_lasts_until_the_device_goes_on() -> None:
    assert PACING.behind(until_caught_up_s=0.9, buffered=10, expected=20) == pytest.approx(0.03)


def test_the_interval_keeps_its_limits() -> None:
    assert PACING.behind(until_caught_up_s=60.0, buffered=1, expected=0) == pacing.AIM_SHARE * PACING.max_s
    assert PACING.behind(until_caught_up_s=0.0, buffered=50, expected=0) == PACING.min_s
    assert PACING.behind(until_caught_up_s=1.0, buffered=0, expected=0) == pacing.AIM_SHARE * PACING.max_s


def test_a_buffer_drains_once_the_device_generates_and_then_nothing_waits() -> None:
    assert PACING.caught_up(step_s=0.04, buffered=5) == pytest.approx(0.02)
    assert PACING.caught_up(step_s=0.04, buffered=1) == 0.0
