"""The whole request in the cloud; another replica goes on where one is lost.

A lost stream is opened again with the prompt and the tokens so far, which the sampler continues exactly
(`core.generation`). A cloud that admits a request and then has no room for it, as some servers of others do, is asked
again as one that refuses at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator

from milliner.core import errors, generation, types
from milliner.strategies import answer as answers
from milliner.strategies import cloud_tokens, lengths, openings, whole_request
from milliner.strategies import options as strategy_options
from milliner.telemetry import record as records
from milliner.telemetry.phases import Phase


class CloudOnly:
    """Implements `strategies.base.Generator`."""

    def __init__(self, scope: cloud_tokens.CloudPorts, options: strategy_options.RecoveryOptions) -> None:
        self._scope = scope
        self._recovery = options

    async def generate(
        self, request: types.GenerationRequest, request_record: records.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Emissions of one answer; see `Generator`."""
        scope, answer = self._scope, answers.Answer(request)
        lengths.check(request, max_positions=scope.info.max_positions)
        sampler = whole_request.sampler_of(request, scope.new_seed)
        known: list[int] = []
        lost_since_s: float | None = None
        until_s = scope.clock.now() + openings.MAX_WAIT_S
        request_record.start_round(0, "prefill")
        while True:
            so_far = dataclasses.replace(
                request, prompt_ids=(*request.prompt_ids, *known), max_new_tokens=answer.remaining
            )
            stream: generation.TokenStream | None = None
            try:
                stream = await cloud_tokens.open_stream(scope, so_far, sampler, record=request_record)
                if not known:
                    request_record.cached_tokens = stream.opened.cached_tokens
                async for emission in self._emissions(stream, answer, request_record):
                    known += [token.token_id for token in emission.tokens]
                    lost_since_s = None
                    yield emission
                return
            except errors.CapacityError as refusal:
                waits = stream is not None and request.waits_for_room
                if not waits or scope.clock.now() + refusal.retry_after_s > until_s:
                    raise
                with request_record.phase(Phase.QUEUE):
                    await scope.clock.sleep(refusal.retry_after_s)
            except errors.UnavailableError:
                now_s = scope.clock.now()
                lost_since_s = now_s if lost_since_s is None else lost_since_s
                if now_s - lost_since_s >= self._recovery.wait_s:
                    raise
                with request_record.phase(Phase.TAKEOVER):
                    await scope.clock.sleep(self._recovery.retry_s)
                request_record.count(recoveries=1)
            finally:
                if stream is not None:
                    await stream.close()
                scope.openings.freed()

    async def _emissions(
        self, stream: generation.TokenStream, answer: answers.Answer, record: records.RequestRecord
    ) -> AsyncGenerator[types.Emission, None]:
        """Until the answer is finished; every token is a round."""
        clock = self._scope.clock
        while not answer.finished:
            start_s = clock.now()
            token = await stream.receive()
            record.add_round_trip(
                clock.now() - start_s,
                queue_s=token.step.queue_s,
                compute_s=token.step.compute_s,
                batched_tokens=token.step.batched_tokens,
            )
            emission = answer.take((token.step.token,))
            record.emitted(len(emission.tokens))
            record.end_round()
            yield emission
            if not answer.finished:
                record.start_round(answer.num_tokens, "decode")
