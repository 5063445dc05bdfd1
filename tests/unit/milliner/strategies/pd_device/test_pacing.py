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


def test_a_buffer_drains_to_a_reserve_once_the_device_generates() -> None:
    assert PACING.caught_up(step_s=0.04, buffered=5, complete=False) == pytest.approx(0.02)
    assert PACING.caught_up(step_s=0.04, buffered=2, complete=False) == pytest.approx(0.04)


def test_the_reserve_is_shown_rather_than_let_a_reader_wait_and_at_the_end_of_the_answer() -> None:
    assert PACING.caught_up(step_s=0.04, buffered=1, complete=False) == pacing.AIM_SHARE * PACING.max_s
    assert PACING.caught_up(step_s=0.04, buffered=1, complete=True) == pytest.approx(0.02)


def test_late_timers_do_not_add_up_and_late_tokens_are_not_made_up_for() -> None:
    assert PACING.began(due_s=7.0, shown_s=7.001) == 7.0
    assert PACING.began(due_s=7.1, shown_s=7.0) == 7.0  # the next token's interval has changed meanwhile
    assert PACING.began(due_s=7.0, shown_s=9.0) == pytest.approx(9.0 - 0.004)
