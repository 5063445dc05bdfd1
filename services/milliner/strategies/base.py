"""What every strategy is to the layers above: a generator of emissions bound to its ports."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from milliner.core import types
from milliner.telemetry import record


class Generator(Protocol):
    """A strategy bound to clock, transport and compute. Closing the iterator frees both tiers.

    `generate` may run many times at once; each call is one request. Phases and counters go to `request_record`,
    which the caller opens and finishes.
    """

    def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]: ...
