"""A cloud session seen from the device: frames out, replies in, and a new replica when the old one is lost.

The device keeps every hidden state that it sent (`DeviceSession.repack`), so a lost replica costs time and no token:
`recover` opens a session on another one, replays the committed positions and the caller goes on with the frame that
was lost. Used by one request; `send` and `receive` may be awaited by two tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from milliner.core import compute, errors, ports, types
from milliner.strategies import options as strategy_options
from milliner.strategies import uplink as uplinks
from milliner.telemetry import record as records
from milliner.telemetry.phases import Phase

REFUSED = (errors.CapacityError, errors.PromptTooLong)
"""What one replica has no room for, now or ever; another one may have it."""

LOST = (errors.UnavailableError, errors.UnknownSession)
"""What means that the replica no longer holds the session: the connection broke, or it restarted and forgot."""

_LAST_RETRY_S = 2.0  # arbitrary: the longest pause between two tries


@dataclasses.dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame on its way: what is needed to learn from its reply, and to send it again."""

    frame: types.HiddenFrame
    sent_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class SessionPorts:
    """What a cloud session is built from; the same for all requests of a strategy but for `device` and `record`."""

    transport: ports.CloudTransport
    clock: ports.Clock
    uplink: uplinks.Uplink
    new_session_id: Callable[[], str]
    info: compute.DeviceInfo
    codec: strategy_options.CodecOptions
    recovery: strategy_options.RecoveryOptions


class CloudSession:
    """See the module. `load` is the cloud's last report."""

    def __init__(
        self,
        session_ports: SessionPorts,
        *,
        device: compute.DeviceSession,
        record: records.RequestRecord,
        max_positions: int,
    ) -> None:
        self._ports = session_ports
        self._device = device
        self._record = record
        self._max_positions = max_positions
        self._stream: ports.CloudStream | None = None
        self._session_id = ""
        self._claim = ""  # chosen with the first opening
        self._max_frame_tokens = 0
        self._confirmed = False
        self._lost_since_s: float | None = None
        self._answered = (-1, -1)  # the furthest frame that was answered: round and start_pos
        self.load = types.LoadReport()

    @property
    def max_frame_tokens(self) -> int | None:
        """Most positions that the cloud takes in one frame; None before the session is open."""
        return self._max_frame_tokens or None

    async def ensure_open(self) -> None:
        """Opens the session unless it is open."""
        if self._stream is None:
            await self.open(eager=True)

    @property
    def confirmed(self) -> bool:
        """Whether the cloud has admitted the session; an eagerly opened one may still be refused."""
        return self._confirmed

    async def open(self, *, eager: bool = False) -> None:
        """Opens the session.

        Raises `UnavailableError`, `CapacityError`, `PromptTooLong` or `ProtocolError` as the cloud says.
        """
        info = self._ports.info
        self._session_id = self._ports.new_session_id()
        self._claim = self._claim or self._ports.new_session_id()
        self._stream = await self._ports.transport.open(
            types.SessionOpen(
                session_id=self._session_id,
                model_digest=info.model_digest,
                slice_start=info.split_layer,
                slice_end=info.cloud_slice_end,
                hidden_size=info.hidden_size,
                max_positions=self._max_positions,
                traceparent=self._record.traceparent,
                claim=self._claim,
            ),
            eager=eager,
        )
        self._confirmed = not eager
        self._max_frame_tokens = self._stream.opened.max_frame_tokens
        self.load = self._stream.opened.load

    async def close(self) -> None:
        """Ends the session on both tiers. A cloud that is gone has ended it already."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()

    async def send(
        self,
        payloads: Sequence[types.Payload],
        *,
        round_index: int,
        start: int,
        kind: types.FrameKind,
        reply_positions: types.ReplyPositions,
    ) -> SentFrame:
        """Sends hidden states of positions from `start`; everything after `start` in the cloud is rolled back first."""
        frame = types.HiddenFrame(
            session_id=self._session_id,
            round=round_index,
            commit_pos=start,
            start_pos=start,
            kind=kind,
            payloads=tuple(payloads),
            reply_positions=reply_positions,
            reply_codec=self._ports.codec.decode,
            traceparent=self._record.traceparent,
        )
        return await self._send_frame(frame)

    async def receive(self, sent: SentFrame) -> types.HiddenReply:
        """The reply to `sent`; replies come in the order of their frames."""
        reply = await self._open_stream().receive()
        self._confirmed = True
        received_s = self._ports.clock.now()
        if (reply.round, reply.start_pos) != (sent.frame.round, sent.frame.start_pos):
            raise errors.PositionMismatch(
                f"the reply is for round {reply.round} at {reply.start_pos}, "
                f"expected round {sent.frame.round} at {sent.frame.start_pos}",
                field="start_pos",
            )
        self.load = reply.load
        if (reply.round, reply.start_pos) > self._answered:  # a replay is no news
            self._answered = (reply.round, reply.start_pos)
            self._lost_since_s = None
        self._ports.uplink.replied(
            session_id=self._session_id,
            sent_s=sent.sent_s,
            received_s=received_s,
            remote_s=reply.queue_s + reply.compute_s + reply.codec_s,
            num_bytes=sent.frame.num_bytes,
        )
        if reply.payload is not None:
            self._record.count(bytes_down=len(reply.payload.data))
        return reply

    async def receive_or_recover(self, sent: SentFrame) -> types.HiddenReply:
        """The reply to `sent`; if the replica is lost, from another one after a replay of what was committed."""
        on_its_way = True
        while True:
            try:
                if not on_its_way:
                    sent = await self._send_frame(dataclasses.replace(sent.frame, session_id=self._session_id))
                return await self.receive(sent)
            except LOST as lost:
                await self.recover(sent.frame.commit_pos, cause=lost)
                on_its_way = False

    async def send_or_recover(
        self, payloads: Sequence[types.Payload], *, round_index: int, start: int, kind: types.FrameKind
    ) -> SentFrame:
        """Sends a frame that asks for all positions; moves to another replica if this one is lost."""
        while True:
            try:
                return await self.send(
                    payloads, round_index=round_index, start=start, kind=kind, reply_positions=types.ReplyPositions.ALL
                )
            except LOST as lost:
                await self.recover(start, cause=lost)

    async def recover(self, committed: int, *, cause: errors.MillinerError) -> None:
        """Opens a session on another replica and replays positions [0, committed).

        Keeps trying until `recovery.wait_s` after the first loss since anything new was answered; then raises
        `UnavailableError` that names the cause. So a frame that ends every replica's session does not go on for ever.
        The pauses grow: where the cloud is full, each try may cost it a whole replay.
        """
        recovery, clock = self._ports.recovery, self._ports.clock
        delay_s = recovery.retry_s
        first_loss = self._lost_since_s is None
        if self._lost_since_s is None:
            self._lost_since_s = clock.now()
        deadline_s = self._lost_since_s + recovery.wait_s
        if not first_loss and clock.now() >= deadline_s:
            raise self._gave_up(cause) from cause
        self._record.count(recoveries=1)
        with self._record.phase(Phase.TAKEOVER):
            while True:
                try:
                    await self.close()
                    await self.open()
                    await self._replay(committed)
                except (*LOST, *REFUSED) as again:
                    cause = again
                else:
                    return
                left_s = deadline_s - clock.now()
                if left_s <= recovery.retry_s:
                    raise self._gave_up(cause) from cause
                await clock.sleep(min(delay_s, left_s))
                delay_s = min(2 * delay_s, max(recovery.retry_s, _LAST_RETRY_S))

    def _gave_up(self, cause: errors.MillinerError) -> errors.UnavailableError:
        return errors.UnavailableError(
            f"the cloud was lost and no replica took over within {self._ports.recovery.wait_s:g} s: {cause}",
            field="fallback.waitSeconds",
        )

    async def _replay(self, committed: int) -> None:
        """Sends positions [0, committed) in frames as large as allowed and waits for all replies."""
        step = self._max_frame_tokens or committed
        sent: list[SentFrame] = []
        for start in range(0, committed, max(1, step)):
            outgoing = await self._device.repack(start, min(committed, start + step))
            sent.append(
                await self.send(
                    outgoing.payloads,
                    round_index=0,
                    start=start,
                    kind=types.FrameKind.CHUNK,
                    reply_positions=types.ReplyPositions.NONE,
                )
            )
        for frame in sent:
            await self.receive(frame)

    async def _send_frame(self, frame: types.HiddenFrame) -> SentFrame:
        sent_s = self._ports.clock.now()
        self._ports.uplink.sent(at_s=sent_s, num_bytes=frame.num_bytes)
        await self._open_stream().send(frame)
        self._record.count(bytes_up=frame.num_bytes)
        return SentFrame(frame=frame, sent_s=sent_s)

    def _open_stream(self) -> ports.CloudStream:
        if self._stream is None:
            raise errors.UnavailableError("the cloud session is closed", field="session_id")
        return self._stream
