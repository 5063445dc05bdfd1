"""Kubernetes quantities as numbers, to compare them; pure. Who sets one has had it checked as `fields.Quantity`."""

from __future__ import annotations

import re
from fractions import Fraction

from milliner.contract import fields

_FORM = re.compile(fields.QUANTITY, re.ASCII)
_BINARY = {f"{letter}i": Fraction(1024) ** (power + 1) for power, letter in enumerate("KMGTPE")}
_DECIMAL = {letter: Fraction(1000) ** power for power, letter in enumerate("num", start=-3)}
_DECIMAL |= {letter: Fraction(1000) ** (power + 1) for power, letter in enumerate("kMGTPE")}


def value(text: str) -> Fraction:
    """The amount that a quantity says; raises ValueError (*bug*) where it is none."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no quantity")
    number, suffix = Fraction(f"0{found[1].rstrip('.')}"), found[3] or ""
    if suffix in _BINARY or suffix in _DECIMAL:
        return number * (_BINARY | _DECIMAL)[suffix]
    return number * Fraction(10) ** int(suffix[1:] or 0)
