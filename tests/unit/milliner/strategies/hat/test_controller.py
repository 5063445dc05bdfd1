"""Draft length: acceptance by confidence, the stopping rule, and switching off what loses."""

from __future__ import annotations

from typing import Any

import pytest

from milliner.strategies import options as strategy_options
from milliner.strategies.hat import acceptance as acceptances
from milliner.strategies.hat import controller, profit

Control = strategy_options.DraftControl


def new_controller(control: Control = Control.ADAPTIVE, **fields: float) -> controller.DraftController:
    return controller.DraftController(strategy_options.DraftingOptions(control=control, **fields))  # type: ignore[arg-type]


def done(**fields: Any) -> controller.Round:
    """A round; without more ado four drafts, of which none stood."""
    drafted: dict[str, Any] = {
        "num_drafted": 4,
        "num_tokens": 1,
        "duration_s": 0.1,
        "drafting_s": 0.04,
        "round_trip_s": 0.05,
        "step_s": 0.011,
    }
    return controller.Round(**drafted | fields)


PLAIN = done(num_drafted=0, duration_s=0.06, drafting_s=0.0)


def rounds(control: controller.DraftController, count: int, *, num_tokens: int, duration_s: float) -> None:
    for _ in range(count):
        control.learn_round(done(num_tokens=num_tokens, duration_s=duration_s))


def test_acceptance_starts_at_the_confidence_and_learns_from_outcomes() -> None:
    acceptance = acceptances.Acceptance()
    assert acceptance.rate(0.87) == pytest.approx(0.85)
    for _ in range(500):
        acceptance.learn(0.87, accepted=False)
    assert acceptance.rate(0.87) < 0.05
    assert acceptance.rate(0.12) == pytest.approx(0.15)


def test_acceptance_forgets_slowly() -> None:
    acceptance = acceptances.Acceptance()
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
        trip_s = 0.05 + 0.004 * num_drafted
        control.learn_round(
            done(num_drafted=num_drafted, num_tokens=2, duration_s=0.04, drafting_s=0.0, round_trip_s=trip_s)
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


def test_rounds_without_drafts_slow_the_pace_that_drafts_must_beat() -> None:
    control = new_controller()
    rounds(control, 200, num_tokens=5, duration_s=0.06)  # 12 ms per token: a draft of 15 ms never pays
    assert not control.worthwhile([0.95], cost_s=0.015)
    for _ in range(100):
        control.learn_round(PLAIN)
    assert control.worthwhile([0.95], cost_s=0.015)


def test_guesses_made_while_waiting_teach_what_drafts_would_be_worth() -> None:
    control = new_controller()
    rounds(control, 1, num_tokens=2, duration_s=0.1)
    for right in (False, True):
        for _ in range(200):
            control.learn_round(done(num_drafted=0, duration_s=0.06, drafting_s=0.0, guess=(0.95, right)))
        assert control.worthwhile([0.95], cost_s=0.011) is right
        assert control.worth_a_look(cost_s=0.011) is right


def test_where_nothing_teaches_a_draft_is_tried_at_a_bounded_price() -> None:
    control = new_controller()
    rounds(control, 1, num_tokens=2, duration_s=0.1)
    for _ in range(300):
        control.acceptance.learn(0.95, accepted=False)
    plain_s = spent_s = 0.0
    for _ in range(1000):
        if control.worth_a_look(cost_s=0.011):
            assert control.worthwhile([0.95], cost_s=0.011)
            assert not control.worthwhile([0.95, 0.95], cost_s=0.011)  # one is enough to learn from
            control.learn_round(done(num_drafted=1, duration_s=0.071, drafting_s=0.011))
            control.acceptance.learn(0.95, accepted=False)
            spent_s += 0.011
        else:
            control.learn_round(PLAIN)
            plain_s += PLAIN.duration_s
    assert 0.005 < spent_s / plain_s <= controller.EXPLORE_SHARE + 0.001


def test_drafting_that_loses_is_switched_off_and_comes_back() -> None:
    control = new_controller()
    rounds(control, profit.MIN_ROUNDS, num_tokens=1, duration_s=0.1)  # plain decoding would take 60 ms
    assert not control.drafting
    waited = 0
    while not control.drafting:
        control.learn_round(PLAIN)
        waited += 1
    assert waited == profit.MIN_OFF_ROUNDS
    rounds(control, 200, num_tokens=5, duration_s=0.1)
    assert control.drafting


def test_trials_lose_a_bounded_share_of_the_time() -> None:
    control = new_controller()
    rounds(control, profit.MIN_ROUNDS, num_tokens=1, duration_s=0.1)
    plain_s = lost_s = 0.0
    for _ in range(5000):
        if control.drafting:
            control.learn_round(done())
            lost_s += 0.1 - PLAIN.duration_s
        else:
            control.learn_round(PLAIN)
            plain_s += PLAIN.duration_s
    one_trial_s = profit.TRIAL_ROUNDS * (0.1 - PLAIN.duration_s)
    assert 0.0 < lost_s <= profit.TRIAL_SHARE * plain_s + one_trial_s
    assert lost_s >= profit.TRIAL_SHARE * plain_s / 2  # and they do not stop


def test_a_trial_that_is_due_waits_until_guesses_promise_something() -> None:
    control = new_controller()
    for _ in range(100):
        control.acceptance.learn(0.9, accepted=False)
    rounds(control, profit.MIN_ROUNDS, num_tokens=1, duration_s=0.1)
    for right, most in ((False, profit.UNSEEN_ROUNDS - 1), (True, 20)):
        waited = 0
        while not control.drafting and waited < most:
            control.learn_round(done(num_drafted=0, duration_s=0.06, drafting_s=0.0, guess=(0.9, right)))
            waited += 1
        assert control.drafting is right
