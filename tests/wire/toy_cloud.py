"""A cloud service without a model, for tests of the wire: answers at once, remembers what it saw, fails on demand."""

from __future__ import annotations

import asyncio
import dataclasses

from milliner.core import errors, types

HIDDEN_SIZE = 8
DIGEST = "sha256:" + "0" * 64


class ToyCloud:
    """Echoes payloads; keeps a position per session as the engine does."""

    def __init__(self, *, max_frame_tokens: int = 1024) -> None:
        self.max_frame_tokens = max_frame_tokens
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.frames: list[types.HiddenFrame] = []
        self.kv_len: dict[str, int] = {}
        self.refuse_open: Exception | None = None
        self.refuse_frame: dict[int, Exception] = {}  # by round
        self.delay_s: dict[int, float] = {}  # by round
        self.cancelled = 0
        self.gate = asyncio.Event()  # cleared: frames wait
        self.gate.set()
        self.open_gate = asyncio.Event()  # cleared: sessions wait
        self.open_gate.set()

    async def open(self, request: types.SessionOpen) -> types.SessionOpened:
        await self.open_gate.wait()
        if self.refuse_open is not None:
            raise self.refuse_open
        if request.model_digest != DIGEST:
            raise errors.DigestMismatch(f"the cloud serves {DIGEST}", field="model_digest")
        self.opened.append(request.session_id)
        self.kv_len[request.session_id] = 0
        return types.SessionOpened(
            session_id=request.session_id, max_frame_tokens=self.max_frame_tokens, load=types.LoadReport()
        )

    async def forward(self, frame: types.HiddenFrame) -> types.HiddenReply:
        self.frames.append(frame)
        try:
            await self.gate.wait()
            await asyncio.sleep(self.delay_s.get(frame.round, 0.0))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if frame.round in self.refuse_frame:
            raise self.refuse_frame[frame.round]
        self.kv_len[frame.session_id] = frame.start_pos + frame.num_tokens
        return types.HiddenReply(
            session_id=frame.session_id,
            round=frame.round,
            start_pos=frame.start_pos,
            kv_len=self.kv_len[frame.session_id],
            payload=None if frame.reply_positions is types.ReplyPositions.NONE else frame.payloads[-1],
            queue_s=0.001,
            compute_s=0.002,
            batched_tokens=frame.num_tokens,
            load=types.LoadReport(delay_fixed_s=0.024, running_sessions=len(self.kv_len)),
            codec_s=0.0005,
        )

    async def close(self, session_id: str) -> None:
        self.closed.append(session_id)
        self.kv_len.pop(session_id, None)


def session_open(session_id: str = "s1") -> types.SessionOpen:
    """An Open that the toy accepts."""
    return types.SessionOpen(
        session_id=session_id,
        model_digest=DIGEST,
        slice_start=2,
        slice_end=8,
        hidden_size=HIDDEN_SIZE,
        max_positions=4096,
    )


def frame(
    *,
    session_id: str = "s1",
    round_index: int = 0,
    start_pos: int = 0,
    num_tokens: int = 1,
    reply_positions: types.ReplyPositions = types.ReplyPositions.ALL,
) -> types.HiddenFrame:
    """A Float32 frame whose bytes tell its position."""
    payload = types.Payload(
        codec=types.Codec.FLOAT32, num_tokens=num_tokens, data=bytes([start_pos % 256]) * (4 * HIDDEN_SIZE * num_tokens)
    )
    return types.HiddenFrame(
        session_id=session_id,
        round=round_index,
        commit_pos=start_pos,
        start_pos=start_pos,
        kind=types.FrameKind.VERIFY,
        payloads=(payload,),
        reply_positions=reply_positions,
        reply_codec=types.Codec.FLOAT32,
    )


def with_data(base: types.HiddenFrame, data: bytes) -> types.HiddenFrame:
    """The frame with other payload bytes."""
    return dataclasses.replace(base, payloads=(dataclasses.replace(base.payloads[0], data=data),))
