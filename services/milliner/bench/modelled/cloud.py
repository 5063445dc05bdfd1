"""`core.ports.CloudTransport` with modelled durations: an uplink, a cloud that computes in turn, a downlink.

Each direction of the link sends one frame after another at its bandwidth and then takes half a round trip; the cloud
computes frames in order, those that wait for it together in one batch. Bytes are those of the payloads: what gRPC, TCP
and Python add is what the real bench shows beyond this model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from milliner.bench import presets
from milliner.core import errors, ports, types

_MAX_FRAME_TOKENS = 4096


class ModelledCloud:
    """The link and the cloud behind it, for one device."""

    def __init__(self, preset: presets.Preset, *, clock: ports.Clock) -> None:
        self._preset = preset
        self._clock = clock
        self._uplink_free_s = 0.0
        self._downlink_free_s = 0.0
        self._waiting: list[tuple[types.HiddenFrame, float, Callable[[types.HiddenReply], None]]] = []
        self._computing = False
        self.calls = 0
        self.busy_s = 0.0

    @property
    def load(self) -> types.LoadReport:
        cost = self._preset.cloud
        return types.LoadReport(delay_fixed_s=cost.fixed_s, delay_per_token_s=cost.per_token_s)

    async def open(self, request: types.SessionOpen, *, eager: bool = False) -> ModelledStream:
        if not eager:
            await self._clock.sleep(self._preset.link.round_trip_s)
        return ModelledStream(self, types.SessionOpened(request.session_id, _MAX_FRAME_TOKENS, self.load))

    def send(self, frame: types.HiddenFrame, deliver: Callable[[types.HiddenReply], None]) -> None:
        """Takes a frame; `deliver` is called when its reply has come back."""
        link, now_s = self._preset.link, self._clock.now()
        self._uplink_free_s = max(now_s, self._uplink_free_s) + frame.num_bytes / link.uplink_bytes_per_s
        arrival_s = self._uplink_free_s + link.round_trip_s / 2
        asyncio.get_running_loop().call_at(arrival_s, self._arrived, frame, deliver)

    def _arrived(self, frame: types.HiddenFrame, deliver: Callable[[types.HiddenReply], None]) -> None:
        self._waiting.append((frame, self._clock.now(), deliver))
        if not self._computing:
            self._compute()

    def _compute(self) -> None:
        batch, self._waiting = self._waiting, []
        self._computing = bool(batch)
        if not batch:
            return
        started_s = self._clock.now()
        tokens = sum(frame.num_tokens for frame, _, _ in batch)
        compute_s = self._preset.cloud.duration_s(tokens)
        self.calls += 1
        self.busy_s += compute_s

        def done() -> None:
            for frame, arrived_s, deliver in batch:
                self._reply(frame, deliver, queue_s=started_s - arrived_s, compute_s=compute_s, tokens=tokens)
            self._compute()

        asyncio.get_running_loop().call_later(compute_s, done)

    def _reply(
        self,
        frame: types.HiddenFrame,
        deliver: Callable[[types.HiddenReply], None],
        *,
        queue_s: float,
        compute_s: float,
        tokens: int,
    ) -> None:
        link = self._preset.link
        counts = {types.ReplyPositions.ALL: frame.num_tokens, types.ReplyPositions.LAST: 1}
        positions = counts.get(frame.reply_positions, 0)
        num_bytes = round(positions * presets.bytes_per_position(frame.reply_codec, self._preset.hidden_size))
        reply = types.HiddenReply(
            session_id=frame.session_id,
            round=frame.round,
            start_pos=frame.start_pos,
            kv_len=frame.start_pos + frame.num_tokens,
            payload=types.Payload(frame.reply_codec, positions, bytes(num_bytes)) if positions else None,
            queue_s=queue_s,
            compute_s=compute_s,
            batched_tokens=tokens,
            load=self.load,
        )
        self._downlink_free_s = max(self._clock.now(), self._downlink_free_s) + num_bytes / link.downlink_bytes_per_s
        asyncio.get_running_loop().call_at(self._downlink_free_s + link.round_trip_s / 2, deliver, reply)


class ModelledStream:
    """`core.ports.CloudStream` over `ModelledCloud`."""

    def __init__(self, cloud: ModelledCloud, opened: types.SessionOpened) -> None:
        self._cloud = cloud
        self._replies: asyncio.Queue[types.HiddenReply] = asyncio.Queue()
        self._closed = False
        self.opened = opened

    async def send(self, frame: types.HiddenFrame) -> None:
        if self._closed:
            raise errors.UnavailableError("the stream is closed", field="session_id")
        self._cloud.send(frame, self._replies.put_nowait)

    async def receive(self) -> types.HiddenReply:
        return await self._replies.get()

    async def close(self) -> None:
        self._closed = True
