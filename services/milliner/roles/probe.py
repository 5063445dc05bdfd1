"""A short request through both tiers: the proof that a device can serve. Event loop only.

It runs the strategy itself, so it proves what clients will use (model, slice, wire, drafter) and warms it up. Asked by
`readiness`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from milliner.core import errors, ports, types
from milliner.strategies import base
from milliner.telemetry import record, summary

_PROMPT_TOKENS = 8  # arbitrary: more than one, so that a chunk is a batch
_NEW_TOKENS = 4  # arbitrary: a round or two after the first token
# Arbitrary: the first one on an accelerator compiles kernels, and a strategy that recovers would wait far longer.
_WITHIN_S = 20.0


class Probe:
    """Sends probes through `generator`. `round_trip_s` is how long the last one that succeeded took; `on_success`
    gets its summary."""

    def __init__(
        self,
        generator: base.Generator,
        *,
        vocab_size: int,
        clock: ports.Clock,
        on_success: Callable[[summary.RequestSummary], None] = lambda _: None,
    ) -> None:
        self.round_trip_s = 0.0
        self._on_success = on_success
        self._generator = generator
        self._vocab_size = vocab_size
        self._clock = clock

    async def send(self) -> None:
        """One request, all of its tokens awaited; both tiers are free again on the way out.

        Raises what the strategy raises, `DeadlineExceeded` when that takes longer than `_WITHIN_S`.
        """
        started_s = self._clock.now()
        try:
            async with asyncio.timeout(_WITHIN_S):
                await self._send()
        except TimeoutError:
            raise errors.DeadlineExceeded(
                f"a request of {_PROMPT_TOKENS} tokens was not answered in {_WITHIN_S:g} s", field="cloud"
            ) from None
        self.round_trip_s = self._clock.now() - started_s

    async def _send(self) -> None:
        request = types.GenerationRequest(
            request_id="probe",
            prompt_ids=tuple(index % self._vocab_size for index in range(1, _PROMPT_TOKENS + 1)),
            max_new_tokens=_NEW_TOKENS,
            waits_for_room=False,  # that the cloud is full is an answer
        )
        # A tracer that records nothing: probes are no requests of anybody.
        probe_record = record.RequestRecord(
            clock=self._clock, request_id="probe", operation="text_completion", model="", strategy=""
        )
        async with contextlib.aclosing(self._generator.generate(request, probe_record)) as emissions:
            async for _ in emissions:
                pass
        self._on_success(probe_record.finish(finish_reason="length"))
