"""`core.ports.CloudTransport` with modelled durations: an uplink, a cloud that computes in turn, a downlink.

The link is the emulated link's own arithmetic (`wire.link_schedule`), a frame being one packet; the cloud computes
frames in order, those that wait for it together in one batch. Bytes are those of the payloads: what gRPC, TCP and
Python add is what the real bench shows beyond this model. Payloads are empty unless `layers` computes them.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import random
from collections.abc import Callable
from typing import Protocol

from milliner.bench import presets
from milliner.core import errors, ports, types
from milliner.wire import link_schedule

_MAX_FRAME_TOKENS = 4096
_SEED = 0  # of jitter and losses


class Layers(Protocol):
    """The cloud's layers, where answers are real: takes a frame, gives the payload of its reply."""

    def forward(self, frame: types.HiddenFrame) -> types.Payload | None: ...

    def close(self, session_id: str) -> None: ...


class ModelledCloud:
    """The link and the cloud behind it, for one device."""

    def __init__(self, preset: presets.Preset, *, clock: ports.Clock, layers: Layers | None = None) -> None:
        self._preset = preset
        self._clock = clock
        self._layers = layers
        self._up, self._down = _directions(preset.link)
        # What is on its way, in order: timers of one moment fire in any.
        self._rising: collections.deque[tuple[types.HiddenFrame, Callable[[types.HiddenReply], None]]]
        self._rising, self._falling = collections.deque(), collections.deque[Callable[[], None]]()
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
        self._rising.append((frame, deliver))
        asyncio.get_running_loop().call_at(self._up.admit(self._clock.now(), frame.num_bytes), self._arrived)

    def _arrived(self) -> None:
        frame, deliver = self._rising.popleft()
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
        payload = self._payload(frame)
        reply = types.HiddenReply(
            session_id=frame.session_id,
            round=frame.round,
            start_pos=frame.start_pos,
            kv_len=frame.start_pos + frame.num_tokens,
            payload=payload,
            queue_s=queue_s,
            compute_s=compute_s,
            batched_tokens=tokens,
            load=self.load,
        )
        arrival_s = self._down.admit(self._clock.now(), len(payload.data) if payload else 0)
        self._falling.append(functools.partial(deliver, reply))
        asyncio.get_running_loop().call_at(arrival_s, lambda: self._falling.popleft()())

    def _payload(self, frame: types.HiddenFrame) -> types.Payload | None:
        if self._layers is not None:
            return self._layers.forward(frame)
        counts = {types.ReplyPositions.ALL: frame.num_tokens, types.ReplyPositions.LAST: 1}
        positions = counts.get(frame.reply_positions, 0)
        num_bytes = round(positions * presets.bytes_per_position(frame.reply_codec, self._preset.hidden_size))
        return types.Payload(frame.reply_codec, positions, bytes(num_bytes)) if positions else None

    def close(self, session_id: str) -> None:
        """Ends a session."""
        if self._layers is not None:
            self._layers.close(session_id)


def _directions(link: presets.Link) -> tuple[link_schedule.Direction, link_schedule.Direction]:
    conditions = link_schedule.LinkConditions(
        uplink_bytes_per_s=link.uplink_bytes_per_s,
        downlink_bytes_per_s=link.downlink_bytes_per_s,
        round_trip_s=link.round_trip_s,
        jitter_s=link.jitter_s,
        loss_share=link.loss_share,
    )
    up, down = (
        link_schedule.Direction(conditions, bytes_per_s=bytes_per_s, generator=random.Random(f"{_SEED}:{name}"))
        for name, bytes_per_s in (("up", link.uplink_bytes_per_s), ("down", link.downlink_bytes_per_s))
    )
    return up, down


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
        if not self._closed:
            self._closed = True
            self._cloud.close(self.opened.session_id)
