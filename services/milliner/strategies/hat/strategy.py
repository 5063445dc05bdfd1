"""Hat from prompt to end: chunked prefill, then rounds of drafting and verification. See docs/algorithms.md.

Which positions go how: the prompt in chunks sized by `chunking`, written with the prompt's codec but for its last
`exact_tail_tokens`; what follows with the decode codec. The output equals the full model's: greedy token for token,
sampled in distribution.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from milliner.core import types
from milliner.strategies import chunking, decode, request_scope
from milliner.strategies import options as strategy_options
from milliner.strategies.hat import controller, drafts
from milliner.telemetry import record


class Hat:
    """Implements `strategies.base.Generator`. What it learns of link, device and drafter is shared by all requests.

    Greedy and sampled requests have a controller each: how sure the drafter is means something else in them.
    """

    def __init__(self, scope: request_scope.StrategyPorts, options: strategy_options.HatOptions) -> None:
        self._scope = scope
        self._options = options
        self._planner = chunking.build_planner(options.chunking)
        self._controls = {greedy: controller.DraftController(options.drafting) for greedy in (True, False)}
        self._steps = drafts.StepTimes()

    async def generate(
        self, request: types.GenerationRequest, request_record: record.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Emissions of one answer; see `Generator`."""
        drafting = self._options.drafting.control is not strategy_options.DraftControl.OFF
        async with request_scope.open_request(self._scope, request, request_record) as context:
            first = await request_scope.first_emission(
                self._scope, context, planner=self._planner, use_drafter=drafting and self._scope.device.info.drafts
            )
            yield first
            rounds = decode.decode(context, self._source(context, self._controls[request.sampling.greedy]))
            async with contextlib.aclosing(rounds):
                async for emission in rounds:
                    yield emission

    def _source(self, context: request_scope.RequestContext, control: controller.DraftController) -> decode.DraftSource:
        if not self._scope.device.info.drafts:
            return decode.NoDrafts(context.device)
        return drafts.AdapterDrafts(context, control, self._steps)
