"""Tells of tokens as they become final, and when an answer has ended because the cloud was lost. Wraps the strategy's
generator; event loop only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from milliner.core import errors, types
from milliner.strategies import base
from milliner.telemetry import record


class WatchedGenerator:
    """A `strategies.base.Generator` that calls `on_cloud_lost` at each answer that ends with `UnavailableError`, and
    `on_emission` with all that is emitted."""

    def __init__(
        self,
        generator: base.Generator,
        *,
        on_cloud_lost: Callable[[], None],
        on_emission: Callable[[types.Emission], None] = lambda _: None,
    ) -> None:
        self._generator = generator
        self._on_emission = on_emission
        self._on_cloud_lost = on_cloud_lost

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """As the wrapped generator."""
        try:
            async with contextlib.aclosing(self._generator.generate(request, request_record)) as emissions:
                async for emission in emissions:
                    self._on_emission(emission)
                    yield emission
        except errors.UnavailableError:
            self._on_cloud_lost()
            raise
