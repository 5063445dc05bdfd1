"""What is measured, and how soon what is predicted follows."""

from __future__ import annotations

import pytest

from milliner.core import generation, types
from milliner.strategies.pd_device import profile


def test_first_tokens_are_a_line_over_the_prompt() -> None:
    found = profile.FirstTokens()
    assert found.seconds(1000) == 0.0, "nothing is known"
    for tokens in (100, 1000, 400, 2000, 100, 1000):
        found.observe(tokens, 0.05 + 0.0002 * tokens)
    assert found.seconds(500) == pytest.approx(0.15, rel=0.02)


def test_a_cloud_that_is_busy_is_noticed_within_two_requests_and_so_is_that_it_is_not_any_more() -> None:
    found = profile.FirstTokens()
    for _ in range(20):
        found.observe(500, 0.1)
    for _ in range(2):
        found.observe(500, 2.0)
    assert found.seconds(500) > 1.4
    for _ in range(3):
        found.observe(500, 0.1)
    assert found.seconds(500) < 0.5


def test_being_overtaken_says_that_it_comes_later_and_never_that_it_comes_sooner() -> None:
    measured = profile.Profile()
    measured.cloud_was_overtaken(64, 0.2)
    assert measured.cloud(64).first_token_s > 0.2
    measured.cloud_first_token(64, 3.0)
    before_s = measured.cloud(64).first_token_s
    measured.cloud_was_overtaken(64, 0.2)
    assert measured.cloud(64).first_token_s == pytest.approx(before_s)


def test_a_token_costs_the_cloud_its_share_of_the_batch() -> None:
    measured = profile.Profile()
    emitted = types.EmittedToken(1, types.TokenOrigin.CLOUD)
    first = generation.Step(token=emitted, queue_s=0.0, compute_s=0.2, batched_tokens=600)
    later = generation.Step(token=emitted, queue_s=0.0, compute_s=0.024, batched_tokens=8)
    measured.cloud_computed(512, generation.CloudToken(index=0, step=first, last=False))
    assert measured.cloud(512).token_s == 0.0
    for _ in range(3):
        measured.cloud_computed(512, generation.CloudToken(index=1, step=later, last=False))
    assert measured.cloud(512).token_s == pytest.approx(0.003)
    assert measured.cloud(512).prompt_s == pytest.approx(0.2, rel=0.01)


def test_what_catching_up_took_corrects_the_next_prediction_within_bounds() -> None:
    measured = profile.Profile()
    for tokens in (16, 128, 64, 128, 16):
        measured.prefilled(tokens, 0.1 + 0.002 * tokens)  # a fixed part that the share of one more token leaves out
    usual_s = measured.prefill_s
    for _ in range(12):
        measured.caught_up(256, 256 * 1.5 * usual_s)
    assert measured.prefill_s == pytest.approx(1.5 * usual_s, rel=0.02)
    measured.caught_up(256, 1e6)
    assert measured.prefill_s <= 4.0 * usual_s
    measured.caught_up(0, 5.0)  # all was cached: says nothing
    assert measured.prefill_s <= 4.0 * usual_s
