"""Which element type a bench with emulated compute takes."""

from __future__ import annotations

import pytest

from milliner.bench import fast_dtype
from milliner.contract import kinds


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "expected"),
    [
        (4e-3, 1e-3, kinds.Dtype.BFLOAT16),
        (4e-3, 3.9e-3, kinds.Dtype.FLOAT32),  # not worth converting
        (1e-3, 50e-3, kinds.Dtype.FLOAT32),  # a processor without such instructions
    ],
)
def test_float32_is_taken_unless_bfloat16_is_clearly_faster(
    float32_s: float, bfloat16_s: float, expected: kinds.Dtype
) -> None:
    assert fast_dtype.chosen(float32_s, bfloat16_s) is expected


def test_the_choice_is_one_that_torch_computes_in() -> None:
    assert fast_dtype.choose() in fast_dtype.TORCH
