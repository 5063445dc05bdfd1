"""The cloud role's `core.ports.CloudService`: checks who opens a session, turns frames into engine work and back.

Decoding and encoding of payloads run on the engine's executor thread, everything else on the event loop. What the
engine refuses (sessions, positions, capacity) is its own business; here are only the checks that need to know which
model and slice this replica serves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from milliner.core import errors, types
from milliner.engine import work
from milliner.wire import codecs

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """What is asked of `engine.engine.Engine`."""

    async def open(self, request: types.SessionOpen) -> types.SessionOpened: ...

    async def forward(self, work: work.Work) -> work.Done: ...

    async def close(self, session_id: str) -> None: ...

    def load(self) -> types.LoadReport: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What this replica serves: layers [slice_start, slice_end) of the model with this digest."""

    model_digest: str
    slice_start: int
    slice_end: int
    hidden_size: int
    dtype: torch.dtype


class HiddenStateService:
    """See the module. One per cloud replica."""

    def __init__(self, engine: Engine, *, served: Served) -> None:
        self._engine = engine
        self._served = served

    async def open(self, request: types.SessionOpen) -> types.SessionOpened:
        """Admits a session. Raises `VersionMismatch`, `DigestMismatch`, `ShapeMismatch` or what the engine refuses."""
        self._check(request)
        return await self._engine.open(request)

    async def forward(self, frame: types.HiddenFrame) -> types.HiddenReply:
        """Computes one frame; errors of its payload fail this frame alone."""
        done = await self._engine.forward(
            work.Work(
                session_id=frame.session_id,
                round=frame.round,
                commit_pos=frame.commit_pos,
                start_pos=frame.start_pos,
                num_tokens=frame.num_tokens,
                kind=frame.kind,
                reply_positions=frame.reply_positions,
                decode=lambda: self._decode(frame.payloads),
                encode=lambda hidden: codecs.encode(hidden, frame.reply_codec),
            )
        )
        return types.HiddenReply(
            session_id=frame.session_id,
            round=frame.round,
            start_pos=frame.start_pos,
            kv_len=done.kv_len,
            payload=done.payload,
            queue_s=done.queue_s,
            compute_s=done.compute_s,
            batched_tokens=done.batched_tokens,
            load=self._engine.load(),
            codec_s=done.codec_s,
        )

    async def close(self, session_id: str) -> None:
        """Frees the session; nothing happens if it is gone."""
        await self._engine.close(session_id)

    def _check(self, request: types.SessionOpen) -> None:
        served = self._served
        if request.protocol_version != types.PROTOCOL_VERSION:
            raise errors.VersionMismatch(
                f"the device speaks version {request.protocol_version}, this cloud {types.PROTOCOL_VERSION}: "
                "run the same release on both tiers",
                field="protocol_version",
            )
        if request.model_digest != served.model_digest:
            raise errors.DigestMismatch(
                f"the device holds {request.model_digest}, this cloud {served.model_digest}: "
                "use the same checkpoint on both tiers",
                field="model_digest",
            )
        if request.hidden_size != served.hidden_size:
            raise errors.ShapeMismatch(
                f"the device's hidden states are {request.hidden_size} wide, the model's {served.hidden_size}",
                field="hidden_size",
            )
        if (request.slice_start, request.slice_end) != (served.slice_start, served.slice_end):
            raise errors.ShapeMismatch(
                f"the device wants layers [{request.slice_start}, {request.slice_end}), this cloud serves "
                f"[{served.slice_start}, {served.slice_end}): use the same splitLayer and tailLayers on both tiers",
                field="slice_start" if request.slice_start != served.slice_start else "slice_end",
            )

    def _decode(self, payloads: Sequence[types.Payload]) -> torch.Tensor:
        """The payloads' positions one after the other, `[T, D]`. On the executor's thread."""
        import torch  # not at module level: whoever only wires roles need not load it

        parts = [codecs.decode(payload, self._served.hidden_size, self._served.dtype) for payload in payloads]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
