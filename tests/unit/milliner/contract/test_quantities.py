"""Quantities as Kubernetes reads them."""

from __future__ import annotations

from fractions import Fraction

import pytest

from milliner.contract import quantities


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("2", 2),
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        (".5", Fraction(1, 2)),
        ("5.", 5),
        ("4Gi", 4 * 1024**3),
        ("4G", 4 * 1000**3),
        ("1k", 1000),
        ("1E", 10**18),
        ("1E3", 1000),
        ("1e-3", Fraction(1, 1000)),
        ("7n", Fraction(7, 10**9)),
        ("0e99", 0),
    ],
)
def test_amounts(text: str, amount: Fraction | int) -> None:
    assert quantities.value(text) == amount


@pytest.mark.parametrize("text", ["", "two", "-1", "1 Gi", "1gi", "1e100", "1e-999999999"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantities.value(text)
