"""Opening one request on both tiers, and freeing both whatever happens: what every split strategy begins with."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, Callable

from milliner.core import compute, errors, ports, types
from milliner.engine import delay_model
from milliner.strategies import answer, chunking, cloud_session, lengths, openings, prefill, uplink
from milliner.strategies import options as strategy_options
from milliner.strategies.context import RequestContext
from milliner.telemetry import record as records

__all__ = ["RequestContext", "StrategyPorts", "first_emission", "open_request"]


@dataclasses.dataclass(frozen=True, slots=True)
class StrategyPorts:
    """What a strategy is bound to. `uplink` and `shallow` are estimates that all requests of the device share, as they
    share the line for room in the cloud, `openings`."""

    clock: ports.Clock
    transport: ports.CloudTransport
    device: compute.DeviceCompute
    new_session_id: Callable[[], str]
    codec: strategy_options.CodecOptions
    recovery: strategy_options.RecoveryOptions
    uplink: uplink.Uplink = dataclasses.field(default_factory=uplink.Uplink)
    shallow: delay_model.DelayModel = dataclasses.field(default_factory=delay_model.DelayModel)
    openings: openings.Openings = dataclasses.field(default_factory=openings.Openings)


@contextlib.asynccontextmanager
async def open_request(
    scope: StrategyPorts, request: types.GenerationRequest, record: records.RequestRecord
) -> AsyncGenerator[RequestContext, None]:
    """A request with its sessions on both tiers; both are closed on the way out, also when it is cancelled.

    Raises `PromptTooLong` for what exceeds the context or every replica's KV cache, `KVCacheFull` where the device has
    no room in time, or what the cloud refused. Where the cloud is full, prefill waits in `scope.openings`.
    """
    info = scope.device.info
    prompt_tokens = len(request.prompt_ids)
    lengths.check(request, max_positions=info.max_positions)
    device = await scope.device.open(request, _wire_format(scope.codec, prompt_tokens))
    cloud = cloud_session.CloudSession(
        cloud_session.SessionPorts(
            transport=scope.transport,
            clock=scope.clock,
            uplink=scope.uplink,
            new_session_id=scope.new_session_id,
            info=info,
            codec=scope.codec,
            recovery=scope.recovery,
        ),
        device=device,
        record=record,
        max_positions=prompt_tokens + request.max_new_tokens,
    )
    try:
        yield RequestContext(
            request=request,
            device=device,
            cloud=cloud,
            clock=scope.clock,
            uplink=scope.uplink,
            openings=scope.openings,
            answer=answer.Answer(request),
            record=record,
        )
    except errors.PromptTooLong as refusal:
        raise errors.PromptTooLong(
            f"prompt ({prompt_tokens} tokens) and answer ({request.max_new_tokens}) exceed what the cloud can hold of "
            f"one session: {refusal.message}",
            field="max_tokens",
        ) from refusal
    finally:
        try:
            await cloud.close()
            scope.openings.freed()
        finally:
            await device.close()


async def first_emission(
    scope: StrategyPorts, context: RequestContext, *, planner: chunking.ChunkPlanner, use_drafter: bool
) -> types.Emission:
    """Prefill: the answer's first token."""
    info = scope.device.info
    exact_from = max(0, len(context.request.prompt_ids) - scope.codec.exact_tail_tokens)
    prompt_bytes = scope.device.bytes_per_position(scope.codec.prompt)
    exact_bytes = scope.device.bytes_per_position(scope.codec.decode)

    def bytes_between(start: int, end: int) -> float:
        exact_tokens = max(0, end - max(start, exact_from))
        return exact_tokens * exact_bytes + (end - start - exact_tokens) * prompt_bytes

    options = prefill.PrefillOptions(
        planner=planner,
        bytes_between=bytes_between,
        shallow=scope.shallow,
        use_drafter=use_drafter,
        all_deep_states=info.tail_layers > 0,
    )
    verdict = await prefill.prefill(context, options)
    emission = context.answer.take(verdict.emitted)
    context.record.emitted(len(emission.tokens))
    context.record.end_round()
    return emission


def _wire_format(codec: strategy_options.CodecOptions, prompt_tokens: int) -> compute.WireFormat:
    return compute.WireFormat(
        prompt=codec.prompt, decode=codec.decode, exact_from=max(0, prompt_tokens - codec.exact_tail_tokens)
    )
