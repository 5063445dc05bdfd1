"""The whole request on the device's own model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from milliner.core import types
from milliner.strategies import answer as answers
from milliner.strategies import lengths, whole_request
from milliner.telemetry import record as records


class DeviceOnly:
    """Implements `strategies.base.Generator`."""

    def __init__(self, scope: whole_request.DevicePorts) -> None:
        self._scope = scope

    async def generate(
        self, request: types.GenerationRequest, request_record: records.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Emissions of one answer; see `Generator`."""
        scope = self._scope
        lengths.check(request, max_positions=scope.model.info.max_positions)
        session = await whole_request.open_on_device(scope, request, whole_request.sampler_of(request, scope.new_seed))
        request_record.cached_tokens = session.cached_tokens
        try:
            steps = session.generate(
                request.prompt_ids, limit=request.max_new_tokens, stop_token_ids=request.stop_token_ids
            )
            emissions = whole_request.emit_device_steps(
                steps, answer=answers.Answer(request), record=request_record, clock=scope.clock
            )
            async with contextlib.aclosing(steps), contextlib.aclosing(emissions):
                async for emission in emissions:
                    yield emission
        finally:
            await session.close()
            scope.openings.freed()
