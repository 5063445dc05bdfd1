"""The prompt's way through both tiers: shallow layers, upload and cloud layers of successive chunks overlap.

Two tasks share the stream. The sender cuts chunks as the planner says, runs the shallow layers over each and sends it
when the uplink is about to run dry, so that every decision uses the latest estimates; while the uplink is busy it lets
the drafter see the prompt. The receiver takes the replies, which teach the uplink's rate and the cloud's delay model,
until the last chunk's reply brings the deep state that the first token is picked from.

A replica lost in the middle is replaced by another; what the device has computed is packed and sent again.
"""

from __future__ import annotations

import asyncio
import dataclasses

from milliner.core import compute, errors, tasks, types
from milliner.engine import delay_model
from milliner.strategies import chunking, cloud_session
from milliner.strategies.context import RequestContext
from milliner.telemetry.phases import Phase

PREPARE_SLACK_S = 0.004  # a chunk should be ready this long before the uplink runs dry: twice the preset's jitter
SAFE_FRAME_TOKENS = 16  # a first chunk of this size may be computed before the cloud has said its limit; arbitrary
BLIND_CHUNKS = 2  # chunks in flight while the upload rate is unknown; arbitrary, enough to see a backlog


@dataclasses.dataclass(frozen=True, slots=True)
class PrefillOptions:
    """How a strategy sends prompts. `all_deep_states`: tail layers on the device need every position's."""

    planner: chunking.ChunkPlanner
    bytes_between: chunking.BytesBetween
    shallow: delay_model.DelayModel
    use_drafter: bool
    all_deep_states: bool


async def prefill(context: RequestContext, options: PrefillOptions) -> compute.Verdict:
    """Round 0: the first token of the answer, which becomes the device session's root.

    Raises what the cloud refused, or `UnavailableError` when no replica could be had in time.
    """
    context.record.start_round(0, "prefill")
    if context.request.waits_for_room and context.openings.crowded:
        await _open_in_turn(context)
    while True:
        try:
            return await _Pipeline(context, options).run()
        except cloud_session.LOST as lost:
            await context.cloud.recover(0, cause=lost)
        except cloud_session.REFUSED as full:
            if context.cloud.confirmed:
                raise
            await _open_elsewhere(context, full)


async def _open_elsewhere(context: RequestContext, full: errors.MillinerError) -> None:
    """The replica that was opened eagerly has no room: tries them all; where none has any now, waits in turn."""
    await context.cloud.close()
    try:
        await context.cloud.open()
    except cloud_session.LOST:
        await context.cloud.recover(0, cause=full)
    except errors.CapacityError:
        if not context.request.waits_for_room:
            raise
        await _open_in_turn(context)


async def _open_in_turn(context: RequestContext) -> None:
    """Opens the session once it is this request's turn and a replica has room. Raises the refusal after the wait."""
    with context.record.phase(Phase.QUEUE, tier="device"):
        try:
            await context.openings.open(context.cloud.open, clock=context.clock)
        except cloud_session.LOST as lost:
            await context.cloud.recover(0, cause=lost)


class _Pipeline:
    """One attempt at a prompt."""

    def __init__(self, context: RequestContext, options: PrefillOptions) -> None:
        self._context = context
        self._options = options
        self._in_flight: asyncio.Queue[cloud_session.SentFrame] = asyncio.Queue()
        self._replied = asyncio.Event()
        self._outstanding = 0
        self._first_chunk_s = 0.0

    async def run(self) -> compute.Verdict:
        context = self._context
        start_s = context.clock.now()
        _, reply = await tasks.both(self._send_all(), self._receive_all())
        waited_s = context.clock.now() - start_s
        verdict = await context.device.choose_first(reply)
        self._record_phases(reply, verdict, waited_s=waited_s)
        return verdict

    def _record_phases(self, reply: types.HiddenReply, verdict: compute.Verdict, *, waited_s: float) -> None:
        """The critical path: the first chunk's layers, then the wait for the last reply, then the first token.

        Layers of later chunks on either tier overlap with the upload; they were recorded as hidden.
        """
        record = self._context.record
        record.add(Phase.DEVICE_FORWARD, min(self._first_chunk_s, waited_s))
        record.add_round_trip(
            max(0.0, waited_s - self._first_chunk_s),
            queue_s=reply.queue_s,
            compute_s=reply.compute_s,
            codec_s=reply.codec_s,
            batched_tokens=reply.batched_tokens,
        )
        record.add(Phase.PACK, verdict.decode_s)
        record.add(Phase.SAMPLE, verdict.head_s)

    async def _send_all(self) -> None:
        context, prompt_tokens = self._context, len(self._context.request.prompt_ids)
        start, previous = 0, 0
        while start < prompt_tokens:
            tokens = await self._next_tokens(start, previous)
            await self._wait_for_uplink(tokens)
            # The session's opening costs a round trip; the first chunk is computed meanwhile.
            outgoing, _ = await tasks.both(self._forward(start, start + tokens), context.cloud.ensure_open())
            last = start + tokens == prompt_tokens
            sent = await context.cloud.send(
                outgoing.payloads,
                round_index=0,
                start=start,
                kind=types.FrameKind.LAST_CHUNK if last else types.FrameKind.CHUNK,
                reply_positions=self._reply_positions(last),
            )
            self._outstanding += 1
            self._in_flight.put_nowait(sent)
            start, previous = start + tokens, tokens
            await self._let_drafter_see(tokens, last=last)

    async def _next_tokens(self, start: int, previous: int) -> int:
        cloud = self._context.cloud
        tokens = self._options.planner.next_tokens(self._chunk_context(start, previous))
        if tokens > SAFE_FRAME_TOKENS:
            await cloud.ensure_open()  # only an open session says how many positions a frame may have
        return min(tokens, cloud.max_frame_tokens or tokens)

    async def _forward(self, start: int, end: int) -> compute.Outgoing:
        """Positions [start, end): computed now, or packed again where an earlier attempt has computed them."""
        context = self._context
        outgoing = await context.device.forward_prompt(start, context.request.prompt_ids[start:end])
        seconds = outgoing.forward_s + outgoing.pack_s
        if outgoing.num_computed == outgoing.num_tokens:
            self._options.shallow.observe_batch(outgoing.num_tokens, seconds)
        if start == 0:
            self._first_chunk_s = seconds
        else:
            context.record.add(Phase.DEVICE_FORWARD, outgoing.forward_s, hidden=True)
        return outgoing

    async def _receive_all(self) -> types.HiddenReply:
        prompt_tokens = len(self._context.request.prompt_ids)
        while True:
            sent = await self._in_flight.get()
            reply = await self._context.cloud.receive(sent)
            self._outstanding -= 1
            self._replied.set()
            end = sent.frame.start_pos + sent.frame.num_tokens
            if reply.kv_len != end:
                raise errors.PositionMismatch(
                    f"the cloud holds {reply.kv_len} positions, {end} of {prompt_tokens} were sent", field="kv_len"
                )
            if self._options.all_deep_states:
                await self._context.device.absorb(reply)
            if end == prompt_tokens:
                return reply
            self._context.record.add(Phase.CLOUD_FORWARD, reply.compute_s, hidden=True)

    async def _wait_for_uplink(self, tokens: int) -> None:
        """Returns when a chunk prepared now would be ready just before the uplink has nothing left to send."""
        context = self._context
        while context.uplink.bytes_per_s is None and self._outstanding >= BLIND_CHUNKS:
            self._replied.clear()
            await self._replied.wait()
        spare_s = self._backlog_s() - self._options.shallow.seconds(tokens) - PREPARE_SLACK_S
        if spare_s > 0:
            await context.clock.sleep(spare_s)

    async def _let_drafter_see(self, tokens: int, *, last: bool) -> None:
        """Lets the drafter see the prompt so far if the uplink is busy long enough, and after the last chunk."""
        shallow_s = self._options.shallow.seconds(tokens)
        if self._options.use_drafter and (last or self._backlog_s() > 2 * shallow_s):
            seconds = await self._context.device.forward_drafter()
            self._context.record.add(Phase.DRAFT, seconds, hidden=True)

    def _backlog_s(self) -> float:
        return self._context.uplink.backlog_s(now_s=self._context.clock.now())

    def _chunk_context(self, start: int, previous: int) -> chunking.ChunkContext:
        context, bytes_between = self._context, self._options.bytes_between
        return chunking.ChunkContext(
            start=start,
            prompt_tokens=len(context.request.prompt_ids),
            previous_tokens=previous,
            load=context.cloud.load,
            upload_s=lambda tokens: context.uplink.upload_s(bytes_between(start, start + tokens)),
            shallow_s=self._options.shallow.seconds,
        )

    def _reply_positions(self, last: bool) -> types.ReplyPositions:
        if self._options.all_deep_states:
            return types.ReplyPositions.ALL
        return types.ReplyPositions.LAST if last else types.ReplyPositions.NONE
