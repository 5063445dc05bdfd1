"""The moving estimates of g(x) and μ."""

from __future__ import annotations

import random

import pytest

from milliner.engine import delay_model


def test_two_batch_sizes_fix_the_line() -> None:
    model = delay_model.DelayModel()
    for num_tokens in (1, 512, 1, 512):
        model.observe_batch(num_tokens, 0.024 + 210e-6 * num_tokens)
    assert model.fixed_s == pytest.approx(0.024, rel=0.01)
    assert model.per_token_s == pytest.approx(210e-6, rel=0.01)
    assert model.seconds(256) == pytest.approx(0.024 + 210e-6 * 256, rel=0.01)


def test_is_nil_before_the_first_batch() -> None:
    model = delay_model.DelayModel()
    assert (model.fixed_s, model.per_token_s, model.other_tokens) == (0.0, 0.0, 0.0)


def test_follows_an_accelerator_that_became_twice_as_slow() -> None:
    model = delay_model.DelayModel()
    draw = random.Random(3)
    for slowdown in (1, 2):
        for _ in range(300):
            num_tokens = draw.randint(1, 1024)
            model.observe_batch(num_tokens, slowdown * (0.02 + 1e-4 * num_tokens) * draw.uniform(0.95, 1.05))
    assert model.fixed_s == pytest.approx(0.04, rel=0.2)
    assert model.per_token_s == pytest.approx(2e-4, rel=0.05)


def test_a_thousand_batches_of_one_size_do_not_make_it_jump_at_another() -> None:
    """Without a cap on the covariance, forgetting blows it up (estimator wind-up) and noise becomes slope."""
    model = delay_model.DelayModel()
    draw = random.Random(4)
    for num_tokens in (1, 512):
        model.observe_batch(num_tokens, 0.02 + 1e-4 * num_tokens)
    for _ in range(5000):
        model.observe_batch(5, (0.02 + 5e-4) * draw.uniform(0.9, 1.1))
    model.observe_batch(512, 0.02 + 1e-4 * 512)
    assert model.seconds(512) == pytest.approx(0.02 + 1e-4 * 512, rel=0.1)
    assert model.seconds(1) == pytest.approx(0.02, rel=0.1)


def test_is_never_negative() -> None:
    model = delay_model.DelayModel()
    model.observe_batch(10, 0.05)
    model.observe_batch(500, 0.001)
    assert model.fixed_s >= 0.0
    assert model.per_token_s == 0.0


def test_other_tokens_is_a_mean_first_and_moves_later() -> None:
    model = delay_model.DelayModel()
    for tokens in (10, 20, 30):
        model.observe_frame(tokens)
    assert model.other_tokens == pytest.approx(20)
    for _ in range(500):
        model.observe_frame(100)
    assert model.other_tokens == pytest.approx(100, rel=0.01)
