"""U-shaped split inference: the same split and wire as Hat, without its adapter.

Plain U-shape sends the prompt in one piece and decodes one token a round. With `chunking: Fixed` it is U-Sarathi, with
Medusa heads U-Medusa: each round verifies the chain of the heads' first choices.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from milliner.core import types
from milliner.strategies import chunking, decode, request_scope
from milliner.strategies import options as strategy_options
from milliner.telemetry import record
from milliner.telemetry.phases import Phase


class UShape:
    """Implements `strategies.base.Generator`."""

    def __init__(self, scope: request_scope.StrategyPorts, options: strategy_options.UShapeOptions) -> None:
        self._scope = scope
        self._options = options
        self._planner = chunking.build_planner(options.chunking)

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Emissions of one answer; see `Generator`."""
        async with request_scope.open_request(self._scope, request, request_record) as context:
            yield await request_scope.first_emission(self._scope, context, planner=self._planner, use_drafter=False)
            source: decode.DraftSource = (
                MedusaDrafts(context) if self._options.medusa else decode.NoDrafts(context.device)
            )
            rounds = decode.decode(context, source)
            async with contextlib.aclosing(rounds):
                async for emission in rounds:
                    yield emission


class MedusaDrafts:
    """The heads' choices for the next positions, all from the last deep state. Implements `decode.DraftSource`."""

    kind = "verify"

    def __init__(self, context: request_scope.RequestContext) -> None:
        self._context = context

    async def propose(self, limit: int) -> decode.Path:
        """The chain of drafts, cut to `limit`."""
        with self._context.record.phase(Phase.DRAFT):
            path, _ = await self._context.device.propose()
        return path[: limit + 1]

    async def overlap(self, path: decode.Path, reply: asyncio.Future[Any]) -> None:
        """Nothing: the next heads need this round's deep state."""

    def learn(self, outcome: decode.RoundOutcome) -> None:
        """Nothing: the number of heads is fixed."""
