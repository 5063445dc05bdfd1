"""A cloud replica whose layers are followed by others': computes a frame, hands it on, answers with what comes back.

Stage i of a chain speaks the hidden-state protocol in both directions: a server to whoever is before it (a device, or
stage i - 1), a client to stage i + 1. A frame travels with its session, round, `start_pos` and `commit_pos`, so every
stage rolls back, repeats and refuses by the same rules at the same positions; only the payload changes, to the raw
hidden states of all its positions. Frames of a session are handed on in the order in which they came, and each as soon
as this stage has computed it: the next stage works on one chunk while this one works on the following.

What this stage refuses never reaches the next. Whatever fails behind it ends the session with `UnavailableError`,
because the stages no longer hold the same positions: the device replays on another session. Closing travels along.
Implements `core.ports.CloudService` on top of another one. Event loop only, torch-free.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

from milliner.core import errors, ports, types
from milliner.wire import layout, options, turns

# Which stage is the slowest is asked for a batch of this many tokens: a chunk of a prompt. Arbitrary.
COMPARED_AT_TOKENS = 256

_FOR_THE_DEVICE = (errors.CapacityError, errors.PromptTooLong)  # another replica may have room, or nobody ever will


@dataclasses.dataclass(frozen=True, slots=True)
class StageBounds:
    """This stage computes layers [start, end), the rest [end, chain_end); `codec` is the raw one between."""

    start: int
    end: int
    chain_end: int
    codec: types.Codec


class _Chain:
    """One session: the stream to the next stage, and whose turn it is on it."""

    __slots__ = ("lost", "receiving", "sending", "stream")

    def __init__(self, stream: ports.CloudStream) -> None:
        self.stream = stream
        self.sending = turns.Turns()
        self.receiving = turns.Turns()
        self.lost: errors.UnavailableError | None = None


class PipelineStage:
    """See the module. `own` computes this stage's layers, `behind` leads to the next stage's replicas."""

    def __init__(
        self, own: ports.CloudService, *, behind: ports.CloudTransport, bounds: StageBounds, clock: ports.Clock
    ) -> None:
        self._own = own
        self._behind = behind
        self._bounds = bounds
        self._clock = clock
        self._chains: dict[str, _Chain] = {}

    async def open(self, request: types.SessionOpen) -> types.SessionOpened:
        """Admits a session on this stage and on all behind it; the limits are the narrowest of the chain.

        Raises `ShapeMismatch` for other layers than the chain's, what a stage refuses it with, and `UnavailableError`
        when a stage behind this one is not there or is not what it should be.
        """
        bounds = self._bounds
        if (request.slice_start, request.slice_end) != (bounds.start, bounds.chain_end):
            raise errors.ShapeMismatch(
                f"the peer asks for layers [{request.slice_start}, {request.slice_end}), this chain serves "
                f"[{bounds.start}, {bounds.chain_end}): use the same splitLayer and tailLayers on both tiers",
                field="slice_start" if request.slice_start != bounds.start else "slice_end",
            )
        own = await self._own.open(dataclasses.replace(request, slice_end=bounds.end))
        try:
            stream = await self._open_behind(dataclasses.replace(request, slice_start=bounds.end))
        except BaseException:
            await self._own.close(request.session_id)
            raise
        self._chains[request.session_id] = _Chain(stream)
        most_tokens = options.MAX_PAYLOAD_BYTES // layout.position_bytes(bounds.codec, request.hidden_size)
        return types.SessionOpened(
            session_id=request.session_id,
            max_frame_tokens=min(own.max_frame_tokens, stream.opened.max_frame_tokens, most_tokens),
            load=chain_load(own.load, stream.opened.load),
            max_positions=_least(own.max_positions, stream.opened.max_positions),
        )

    async def forward(self, frame: types.HiddenFrame) -> types.HiddenReply:
        """The chain's reply to one frame. Raises what this stage refuses it with; `UnavailableError` for the rest."""
        chain = self._chains.get(frame.session_id)
        if chain is None:
            raise errors.UnknownSession("there is no such session: open one and replay", field="session_id")
        if chain.lost is not None:
            raise chain.lost
        started_s = self._clock.now()
        with chain.sending.take() as leaving:
            own = await self._own.forward(
                dataclasses.replace(frame, reply_positions=types.ReplyPositions.ALL, reply_codec=self._bounds.codec)
            )
            assert own.payload is not None, "all positions were asked for"
            with self._losing(chain):
                await leaving.come()
                await chain.stream.send(dataclasses.replace(frame, payloads=(own.payload,)))
            arriving = chain.receiving.take()
        with arriving, self._losing(chain):
            await arriving.come()
            deep = await chain.stream.receive()
            _check_reply(deep, own)
        return _joined(own, deep, elapsed_s=self._clock.now() - started_s)

    async def close(self, session_id: str) -> None:
        """Frees the session on this stage and on all behind it; nothing happens if it is gone."""
        await self._own.close(session_id)
        chain = self._chains.pop(session_id, None)
        if chain is not None:
            await chain.stream.close()

    async def _open_behind(self, request: types.SessionOpen) -> ports.CloudStream:
        try:
            return await self._behind.open(request)
        except _FOR_THE_DEVICE:
            raise
        except errors.MillinerError as error:
            raise self._lost(error) from error

    @contextlib.contextmanager
    def _losing(self, chain: _Chain) -> Iterator[None]:
        """What goes wrong inside ends the chain: this stage is ahead of the next, or the order of replies is broken."""
        if chain.lost is not None:
            raise chain.lost
        try:
            yield
        except errors.MillinerError as error:
            chain.lost = chain.lost or self._lost(error)
            raise chain.lost from error
        except asyncio.CancelledError:
            chain.lost = chain.lost or errors.UnavailableError("a frame was cancelled on its way", field="cloud")
            raise

    def _lost(self, error: errors.MillinerError) -> errors.UnavailableError:
        return errors.UnavailableError(
            f"the stage with layers from {self._bounds.end} on was lost: {error}", field="cloud"
        )


def chain_load(own: types.LoadReport, behind: types.LoadReport) -> types.LoadReport:
    """The load of a chain from that of its first stage and of the rest.

    The delay model is the slowest stage's, because chunks follow one another at its pace; memory and limits are those
    of the narrowest, and frames wait at any.
    """
    slowest = max(own, behind, key=lambda load: load.delay_fixed_s + load.delay_per_token_s * COMPARED_AT_TOKENS)
    return types.LoadReport(
        delay_fixed_s=slowest.delay_fixed_s,
        delay_per_token_s=slowest.delay_per_token_s,
        other_tokens=slowest.other_tokens,
        running_sessions=max(own.running_sessions, behind.running_sessions),
        waiting_frames=own.waiting_frames + behind.waiting_frames,
        kv_used_share=max(own.kv_used_share, behind.kv_used_share),
        max_chunk_tokens=_least(own.max_chunk_tokens, behind.max_chunk_tokens),
    )


def _check_reply(deep: types.HiddenReply, own: types.HiddenReply) -> None:
    """Raises `ProtocolError` unless the next stage answered this very frame and holds the same positions."""
    found, expected = (deep.round, deep.start_pos, deep.kv_len), (own.round, own.start_pos, own.kv_len)
    if found != expected:
        raise errors.ProtocolError(
            f"the next stage answered for round, start_pos, kv_len {found}, expected {expected}", field="reply"
        )


def _joined(own: types.HiddenReply, deep: types.HiddenReply, *, elapsed_s: float) -> types.HiddenReply:
    """The next stage's reply with both stages' durations; the way between them counts as queueing."""
    compute_s, codec_s = own.compute_s + deep.compute_s, own.codec_s + deep.codec_s
    return dataclasses.replace(
        deep,
        queue_s=max(0.0, elapsed_s - compute_s - codec_s),
        compute_s=compute_s,
        codec_s=codec_s,
        batched_tokens=max(own.batched_tokens, deep.batched_tokens),
        load=chain_load(own.load, deep.load),
    )


def _least(first: int, second: int) -> int:
    """The lesser of two limits, 0 meaning that there is none."""
    return min(filter(None, (first, second)), default=0)
