"""Draft length: acceptance by confidence, the stopping rule, and switching off what loses."""

from __future__ import annotations

from typing import Any

import pytest

from milliner.strategies import options as strategy_options
from milliner.strategies.hat import controller

Control = strategy_options.DraftControl


def new_controller(control: Control = Control.ADAPTIVE, **fields: float) -> controller.DraftController:
    return controller.DraftController(strategy_options.DraftingOptions(control=control, **fields))  # type: ignore[arg-type]


def rounds(control: controller.DraftController, count: int, *, num_tokens: int, duration_s: float) -> None:
    for _ in range(count):
        control.learn_round(
            num_drafted=4, num_tokens=num_tokens, duration_s=duration_s, drafting_s=0.04, round_trip_s=0.05
        )


def test_acceptance_starts_at_the_confidence_and_learns_from_outcomes() -> None:
    acceptance = controller.Acceptance()
    assert acceptance.rate(0.87) == pytest.approx(0.85)
    for _ in range(500):
        acceptance.learn(0.87, accepted=False)
    assert acceptance.rate(0.87) < 0.05
    assert acceptance.rate(0.12) == pytest.approx(0.15)


def test_acceptance_forgets_slowly() -> None:
    acceptance = controller.Acceptance()
    for _ in range(2000):
        acceptance.learn(0.5, accepted=False)
    for _ in range(800):
        acceptance.learn(0.5, accepted=True)
    assert acceptance.rate(0.5) > 0.8


def test_a_draft_pays_while_its_chance_times_the_pace_exceeds_its_cost() -> None:
    control = new_controller()
    rounds(control, 1, num_tokens=2, duration_s=0.04)  # pace 20 ms per token
    assert control.worthwhile([0.95], cost_s=0.015)
    assert not control.worthwhile([0.95], cost_s=0.025)
    assert control.worthwhile([0.95, 0.95], cost_s=0.015)
    assert not control.worthwhile([0.95] * 8, cost_s=0.015)


def test_a_slower_pace_drafts_more() -> None:
    lengths = []
    for duration_s in (0.05, 0.5, 5.0):
        control = new_controller(max_tokens=32)
        rounds(control, 1, num_tokens=2, duration_s=duration_s)
        lengths.append(next(n for n in range(1, 40) if not control.worthwhile([0.75] * n, cost_s=0.011)) - 1)
    assert lengths[0] < lengths[1] < lengths[2]
    assert lengths[2] - lengths[1] == pytest.approx(lengths[1] - lengths[0], abs=1)  # logarithmic


def test_the_pace_is_time_over_tokens_not_the_mean_of_ratios() -> None:
    control = new_controller()
    for num_tokens in [1, 5] * 100:
        rounds(control, 1, num_tokens=num_tokens, duration_s=0.09)
    assert control.pace_s == pytest.approx(0.03, rel=0.05)  # 180 ms for 6 tokens; the ratios' mean is 54 ms
    assert control.drafting


def test_a_position_that_lengthens_the_round_trip_must_pay_for_it_too() -> None:
    control = new_controller()
    for num_drafted in [1, 4, 8] * 20:
        control.learn_round(
            num_drafted=num_drafted,
            num_tokens=2,
            duration_s=0.04,
            drafting_s=0.0,
            round_trip_s=0.05 + 0.004 * num_drafted,
        )
    for _ in range(200):
        control.acceptance.learn(0.15, accepted=False)
    assert control.worthwhile([0.95], cost_s=0.012)  # 0.95 · 20 ms
    assert not control.worthwhile([0.95], cost_s=0.017)
    assert not control.worthwhile([0.15], cost_s=0.0)


def test_before_anything_is_measured_drafts_end_where_the_drafter_is_unsure() -> None:
    control = new_controller(min_confidence=0.6)
    assert control.worthwhile([0.9, 0.3], cost_s=0.01)
    assert not control.worthwhile([0.9, 0.3, 0.9], cost_s=0.01)


def test_the_longest_draft_is_never_exceeded() -> None:
    control = new_controller(max_tokens=3)
    assert control.worthwhile([1.0] * 3, cost_s=0.0)
    assert not control.worthwhile([1.0] * 4, cost_s=0.0)


def test_fixed_control_ends_after_the_first_unsure_draft() -> None:
    control = new_controller(Control.FIXED, min_confidence=0.6)
    assert control.worthwhile([0.9, 0.3], cost_s=1.0)  # the unsure draft itself is sent
    assert not control.worthwhile([0.9, 0.3, 0.9], cost_s=0.0)
    assert control.drafting


def test_off_never_drafts() -> None:
    assert not new_controller(Control.OFF).drafting


def test_drafting_that_loses_is_switched_off_and_probed_again() -> None:
    control = new_controller()
    rounds(control, controller.MIN_ROUNDS, num_tokens=1, duration_s=0.1)  # plain decoding would take 60 ms
    assert not control.drafting
    plain: dict[str, Any] = {
        "num_drafted": 0,
        "num_tokens": 1,
        "duration_s": 0.06,
        "drafting_s": 0.0,
        "round_trip_s": 0.05,
    }
    for _ in range(controller.PROBE_EVERY - 1):
        control.learn_round(**plain)
        assert not control.drafting
    control.learn_round(**plain)
    assert control.drafting
    rounds(control, 200, num_tokens=5, duration_s=0.1)
    assert control.drafting
