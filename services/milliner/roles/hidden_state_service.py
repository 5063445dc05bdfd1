"""The cloud role's `core.ports.CloudService`: frames become the engine's work, its results replies and spans.

Payloads are decoded and encoded on the engine's executor thread, everything else happens on the event loop. Here it
is checked that a device speaks of the same model and slice; capacity and positions are the engine's to check.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from milliner.core import errors, ports, types
from milliner.engine import engine as engines
from milliner.engine import work
from milliner.telemetry import cloud_metrics, cloud_span
from milliner.wire import codecs

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """What this replica serves: layers [slice_start, slice_end) of the model with this digest, computed in `dtype`."""

    model_digest: str
    slice_start: int
    slice_end: int
    hidden_size: int
    dtype: torch.dtype


class HiddenStateService:
    """See the module. One per cloud replica."""

    def __init__(
        self,
        engine: engines.Engine,
        *,
        served: Served,
        spans: cloud_span.CloudSpans,
        clock: ports.Clock,
        metrics: cloud_metrics.CloudMetrics | None = None,
    ) -> None:
        self._engine = engine
        self._served = served
        self._spans = spans
        self._metrics = metrics or cloud_metrics.CloudMetrics(clock=clock)
        self._clock = clock

    async def open(self, request: types.SessionOpen) -> types.SessionOpened:
        """Admits a session.

        Raises `VersionMismatch`, `DigestMismatch`, `ShapeMismatch` (another width or slice), or what the engine
        refuses it with.
        """
        self._check(request)
        return await self._engine.open(request)

    async def forward(self, frame: types.HiddenFrame) -> types.HiddenReply:
        """Computes one frame; what is wrong with it fails this frame alone."""
        started_s = self._clock.now()
        try:
            done = await self._engine.forward(self._work(frame))
        except Exception as error:
            self._spans.failed(frame, error, duration_s=self._clock.now() - started_s)
            self._metrics.failed(error)
            raise
        reply = types.HiddenReply(
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
        self._spans.answered(frame, reply)
        self._metrics.answered(frame, reply)
        return reply

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
                f"the device holds {request.model_digest or 'none'}, this cloud {served.model_digest}: "
                "give both tiers the same checkpoint",
                field="model_digest",
            )
        if request.hidden_size != served.hidden_size:
            raise errors.ShapeMismatch(
                f"the device's hidden states are {request.hidden_size} wide, the model's {served.hidden_size}",
                field="hidden_size",
            )
        if (request.slice_start, request.slice_end) != (served.slice_start, served.slice_end):
            raise errors.ShapeMismatch(
                f"the device asks for layers [{request.slice_start}, {request.slice_end}), this cloud serves "
                f"[{served.slice_start}, {served.slice_end}): use the same splitLayer and tailLayers on both tiers",
                field="slice_start" if request.slice_start != served.slice_start else "slice_end",
            )

    def _work(self, frame: types.HiddenFrame) -> work.Work:
        return work.Work(
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

    def _decode(self, payloads: tuple[types.Payload, ...]) -> torch.Tensor:
        """The payloads' positions one after the other, `[T, D]`. On the executor's thread."""
        import torch  # the roles' modules stay importable without it

        parts = [codecs.decode(payload, self._served.hidden_size, self._served.dtype) for payload in payloads]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
