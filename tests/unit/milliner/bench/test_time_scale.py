"""Which time scale a bench takes by itself: the least at which hardly any call of a trial is too slow."""

from __future__ import annotations

import pytest

from milliner.bench import time_scale


@pytest.mark.parametrize(
    ("slowness", "expected"),
    [
        (0.5, 1.0),
        (0.9, 1.25),  # it would just keep up at 1, but for a busier moment
        (1.1, 1.5),
        (1.4, 2.0),
        (6.5, 8.0),
        (99.0, 8.0),  # nothing will do: the rows say that they are invalid
    ],
)
async def test_least_factor_with_headroom(slowness: float, expected: float) -> None:
    """On a machine whose calls take `slowness` times as long as modelled."""
    tried: list[float] = []

    async def trial(factor: float) -> float:
        return 1.0 if slowness > factor else 0.02

    assert await time_scale.find(trial, on_try=tried.append) == expected
    assert tried == [factor for factor in time_scale.FACTORS[:-1] if factor <= expected]


async def test_a_hiccup_is_no_reason_to_run_slower() -> None:
    async def trial(factor: float) -> float:
        return 1 / 60

    assert await time_scale.find(trial, on_try=lambda _: None) == 1.0


def test_title_says_who_chose() -> None:
    assert time_scale.title("pd", 2.0, found=True) == "pd, time scale 2 (what this machine needs)"
    assert time_scale.title("pd", 2.0, found=False) == "pd, time scale 2"
    assert time_scale.title("pd", 1.0, found=True) == "pd, time scale 1"
