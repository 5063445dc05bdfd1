"""The round loop that all split strategies share: propose drafts, verify them through the cloud, emit, go on.

A round sends the hidden states of a path root … leaf of the draft tree and gets back the deep states of the same
positions; the device accepts the longest prefix of drafts that the target agrees with and picks the token after it
(docs/algorithms.md). Where drafts come from is a `DraftSource`; plain U-shape decoding is the source that never drafts.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from milliner.core import compute, types
from milliner.strategies import cloud_session
from milliner.strategies.context import RequestContext
from milliner.telemetry.phases import Phase

Path = Sequence[int]
"""Node ids root … leaf; all but the root are drafts."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What a finished round teaches its draft source."""

    path: tuple[int, ...]
    verdict: compute.Verdict
    round_trip_s: float  # from handing over the frame until the reply
    duration_s: float
    kept_subtree: bool  # the next root had been drafted ahead
    late_s: float = 0.0  # from the reply until the draft step that was running then had ended


class DraftSource(Protocol):
    """Where drafts come from. One per request."""

    kind: str

    async def propose(self, limit: int) -> Path:
        """A path of at most `limit` drafts below the root. Records its own DRAFT phase."""
        ...

    async def overlap(self, path: Path, reply: asyncio.Future[Any]) -> None:
        """May use the time until `reply` is done; returns soon after it is, or at once."""
        ...

    def learn(self, outcome: RoundOutcome) -> None: ...


class NoDrafts:
    """Plain decoding, one token a round."""

    kind = "decode"

    def __init__(self, device: compute.DeviceSession) -> None:
        self._device = device

    async def propose(self, limit: int) -> Path:
        return (self._device.root,)

    async def overlap(self, path: Path, reply: asyncio.Future[Any]) -> None:
        return None

    def learn(self, outcome: RoundOutcome) -> None:
        return None


async def decode(context: RequestContext, drafts: DraftSource) -> AsyncGenerator[types.Emission, None]:
    """Rounds until the answer is finished; the prefill's token is the root and has been emitted."""
    index = 0
    while not context.answer.finished:
        index += 1
        context.record.start_round(index, drafts.kind)
        verdict = await _round(context, drafts, index)
        emission = context.answer.take(verdict.emitted)
        context.record.emitted(len(emission.tokens))
        context.record.end_round()
        yield emission


async def _round(context: RequestContext, drafts: DraftSource, index: int) -> compute.Verdict:
    device, record, clock = context.device, context.record, context.clock
    start_s, start = clock.now(), device.position
    path = tuple(await drafts.propose(context.answer.remaining - 1))
    # Phases are what was waited for: the way to the executor's thread and back is part of what it was gone for.
    with record.phase(Phase.DEVICE_FORWARD):
        outgoing = await device.pack(path)
        record.add(Phase.PACK, outgoing.pack_s)
    sent = await context.cloud.send_or_recover(
        outgoing.payloads, round_index=index, start=start, kind=types.FrameKind.VERIFY
    )
    reply, round_trip_s, late_s = await _await_reply(context, drafts, path, sent)
    record.add_round_trip(
        round_trip_s,
        queue_s=reply.queue_s,
        compute_s=reply.compute_s,
        codec_s=reply.codec_s,
        batched_tokens=reply.batched_tokens,
    )
    with record.phase(Phase.VERIFY if len(path) > 1 else Phase.SAMPLE):
        verdict = await device.verify(path, reply)
        record.add(Phase.PACK, verdict.decode_s)
    with record.phase(Phase.ROLLBACK):
        kept = device.commit(path, verdict)
    _count(context, path, verdict)
    drafts.learn(
        RoundOutcome(
            path=path,
            verdict=verdict,
            round_trip_s=round_trip_s,
            duration_s=clock.now() - start_s,
            kept_subtree=kept,
            late_s=late_s,
        )
    )
    return verdict


async def _await_reply(
    context: RequestContext, drafts: DraftSource, path: Path, sent: cloud_session.SentFrame
) -> tuple[types.HiddenReply, float, float]:
    """The reply, how long it took and by how much drafting outlasted it, without what moving to another replica took.

    A draft step that outlasts the reply is recorded as drafting, not as network.
    """
    clock = context.clock
    sent_s, moved_s = clock.now(), context.record.spent_s(Phase.TAKEOVER)

    async def receive() -> tuple[types.HiddenReply, float]:
        reply = await context.cloud.receive_or_recover(sent)
        return reply, clock.now()

    waiting = asyncio.ensure_future(receive())
    try:
        await drafts.overlap(path, waiting)
        reply, received_s = await waiting
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    if (late_s := clock.now() - received_s) > 0.0:
        context.record.add(Phase.DRAFT, late_s, late=True)
    moved_s = context.record.spent_s(Phase.TAKEOVER) - moved_s
    return reply, received_s - sent_s - moved_s, late_s


def _count(context: RequestContext, path: Path, verdict: compute.Verdict) -> None:
    num_drafted = len(path) - 1
    context.record.count(
        num_rounds=1,
        num_drafted_rounds=int(num_drafted > 0),
        num_drafted=num_drafted,
        num_accepted=verdict.num_accepted,
        rollbacks=int(verdict.num_accepted < num_drafted),
    )
