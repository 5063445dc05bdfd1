"""How slowly an emulated world has to run on this machine, so that real compute keeps within the modelled one.

Tried, not computed: the heaviest part of a bench runs, a little faster than it will, at one factor after the other
until hardly any of its calls takes longer than modelled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)
# Of a factor in its trial. Arbitrary: the whole run meets busier moments than some seconds do, and passes behind longer
# histories (preset pd's grow by half while an answer is generated).
_HEADROOM = 0.75
_FEW = 0.02  # of a trial's calls may be too slow; of the whole run's 1 % (arbitrary: a trial has some dozens)

Trial = Callable[[float], Awaitable[float]]
"""Runs the heaviest part at a factor and gives the share of its calls that took longer than modelled."""


async def find(trial: Trial, *, on_try: Callable[[float], None]) -> float:
    """The first factor that will do; the last one where none does, whose rows then say so. `on_try` hears of each."""
    for factor in FACTORS[:-1]:
        on_try(factor)
        if await trial(_HEADROOM * factor) <= _FEW:
            return factor
    return FACTORS[-1]


def title(preset_name: str, factor: float, *, found: bool) -> str:
    """A report's title: the world and its factor, and whether that was asked for."""
    return f"{preset_name}, time scale {factor:g}{' (what this machine needs)' if found and factor > 1.0 else ''}"
