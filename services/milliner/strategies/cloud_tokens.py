"""Asking a whole model in the cloud for tokens: the ports, and opening a stream that waits in turn for room."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable

from milliner.core import generation, ports, types
from milliner.strategies import openings, whole_request
from milliner.telemetry import record as records


@dataclasses.dataclass(frozen=True, slots=True)
class CloudPorts:
    """A cloud that runs a model whole. `info` is what the device expects of it; `max_positions` the most that it holds
    of prompt and answer together, as far as it has said (0: it has not)."""

    clock: ports.Clock
    transport: generation.TokenTransport
    info: generation.WholeModelInfo
    new_session_id: Callable[[], str]
    new_seed: Callable[[], int] = lambda: secrets.randbits(whole_request.SEED_BITS)
    openings: openings.Openings = dataclasses.field(default_factory=openings.Openings)
    max_positions: Callable[[], int] = lambda: 0


async def open_stream(
    scope: CloudPorts,
    request: types.GenerationRequest,
    sampler: generation.Sampler,
    *,
    record: records.RequestRecord,
    keep_share: float = 1.0,
) -> generation.TokenStream:
    """A stream of the tokens that follow the request's prompt; of which the cloud selects `keep_share`, if below 1.

    Raises what the cloud says; for lack of room only after a wait in turn, if the request wants to wait.
    """
    claim = scope.new_session_id()
    opened: list[generation.TokenStream] = []

    async def attempt() -> None:
        opened.append(
            await scope.transport.open(
                generation.GenerationOpen(
                    session_id=scope.new_session_id(),
                    model_digest=scope.info.model_digest,
                    tokenizer_digest=scope.info.tokenizer_digest,
                    prompt_ids=request.prompt_ids,
                    max_tokens=request.max_new_tokens,
                    sampler=sampler,
                    stop_token_ids=request.stop_token_ids,
                    traceparent=record.traceparent,
                    claim=claim,
                    salt=request.cache_salt,
                    keep_share=keep_share,
                    keep_spans=request.protected_spans if keep_share < 1.0 else (),
                )
            )
        )

    if request.waits_for_room:
        await scope.openings.open(attempt, clock=scope.clock)
    else:
        await attempt()
    return opened[0]
