"""What a run of the strategies' bench measures: variants, cells, and the order of their requests. Pure.

A *variant* is a strategy with a prompt codec; a *cell* adds prompt length and temperature; a row of the report is a
cell. Requests of different variants alternate, and each repetition starts with another variant, so that whatever
drifts on the machine during a run drifts through all of them alike.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Sequence

from milliner.bench import presets
from milliner.core import errors


class PlanError(errors.ConfigError):
    """A choice of cells that makes no run; the field is the command line's option."""


class StrategyName(enum.StrEnum):
    """What is measured side by side; names as in the report's rows."""

    USHAPE = "UShape"  # the whole prompt in one frame, one token per round
    USARATHI = "USarathi"  # UShape with prompt chunks of one fixed size
    UMEDUSA = "UMedusa"  # UShape with Medusa heads on the device
    HAT = "Hat"
    HAT_SEQUENTIAL = "HatSequential"  # Hat without parallel drafting: what that feature gains


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """A strategy with the codec of its prompt (a name of `presets.CODEC_NAMES`)."""

    strategy: StrategyName
    codec: str


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One row of the report."""

    variant: Variant
    prompt_tokens: int
    temperature: float

    @property
    def label(self) -> str:
        """How the summary names the cell: `Hat int8 2048 T0.8`."""
        return f"{self.variant.strategy} {self.variant.codec} {self.prompt_tokens} T{self.temperature:g}"


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One request to make: the `repetition`-th prompt of the cell's length."""

    cell: Cell
    repetition: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The cells of a run and how often each is repeated. Raises `PlanError` for choices that make no run."""

    strategies: Sequence[StrategyName]
    codecs: Sequence[str]
    prompt_tokens: Sequence[int]
    temperatures: Sequence[float]
    requests: int
    new_tokens: int

    def __post_init__(self) -> None:
        for name in ("strategies", "codecs", "prompt_tokens", "temperatures"):
            option, values = f"--{name.replace('_', '-')}", getattr(self, name)
            if not values:
                raise PlanError("is empty: name at least one", field=option)
            if len(set(values)) != len(values):
                raise PlanError("names one value twice", field=option)
        for codec in self.codecs:
            if codec not in presets.CODEC_NAMES:
                raise PlanError(f"{codec!r} is no codec: use {', '.join(presets.CODEC_NAMES)}", field="--codecs")
        if min(self.prompt_tokens) < 1:
            raise PlanError(f"{min(self.prompt_tokens)} is no prompt length: use 1 or more", field="--prompt-tokens")
        if not all(0 <= temperature <= 2 for temperature in self.temperatures):
            raise PlanError("is outside 0 to 2", field="--temperatures")
        if self.requests < 1:
            raise PlanError(f"is {self.requests}: use 1 or more", field="--requests")
        if self.new_tokens < 2:
            raise PlanError(f"is {self.new_tokens}: a gap between tokens needs 2 or more", field="--new-tokens")

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Strategies × codecs. `HatSequential` only with the first codec: the prompt's codec leaves drafting alone."""
        return tuple(
            Variant(strategy=strategy, codec=codec)
            for codec in self.codecs
            for strategy in self.strategies
            if strategy is not StrategyName.HAT_SEQUENTIAL or codec == self.codecs[0]
        )

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All rows, in the order in which the table shows them."""
        return tuple(
            Cell(variant=variant, prompt_tokens=length, temperature=temperature)
            for temperature in self.temperatures
            for length in self.prompt_tokens
            for variant in self.variants
        )

    def tasks(self) -> Iterator[Task]:
        """All requests in the order in which they run: per repetition, length and temperature all variants in turn."""
        variants = self.variants
        for repetition in range(self.requests):
            first = repetition % len(variants)
            for length in self.prompt_tokens:
                for temperature in self.temperatures:
                    for variant in variants[first:] + variants[:first]:
                        cell = Cell(variant=variant, prompt_tokens=length, temperature=temperature)
                        yield Task(cell=cell, repetition=repetition)
