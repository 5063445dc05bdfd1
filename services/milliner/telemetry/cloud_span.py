"""The cloud's spans of a frame, in the trace of the device's request.

One stream carries many rounds, so the parent comes from the *frame's* `traceparent`, not from call metadata. The
span is made when the reply is ready, from durations measured here and one reading of this host's wall clock; nothing
is computed from the device's clock. Called by the cloud role on its event loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from opentelemetry import context as otel_context
from opentelemetry import trace

from milliner.core import types
from milliner.telemetry import attributes as names
from milliner.telemetry import tracing
from milliner.telemetry.phases import Phase


class CloudSpans:
    """Makes one `cloud {kind}` span per frame with children queue, pack and cloud_forward."""

    def __init__(self, tracer: trace.Tracer, *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._tracer = tracer
        self._wall_ns = wall_ns

    def answered(self, frame: types.HiddenFrame, reply: types.HiddenReply) -> None:
        """The frame was answered just now. Frames without `traceparent` are not traced."""
        durations = ((Phase.QUEUE, reply.queue_s), (Phase.PACK, reply.codec_s), (Phase.CLOUD_FORWARD, reply.compute_s))
        self._span(frame, sum(duration_s for _, duration_s in durations), durations, reply.batched_tokens, None)

    def failed(self, frame: types.HiddenFrame, error: BaseException, *, duration_s: float) -> None:
        """The frame was refused or failed just now, `duration_s` after it came."""
        self._span(frame, duration_s, (), 0, error)

    def _span(
        self,
        frame: types.HiddenFrame,
        total_s: float,
        durations: tuple[tuple[Phase, float], ...],
        batched_tokens: int,
        error: BaseException | None,
    ) -> None:
        if not frame.traceparent:
            return
        end_ns = self._wall_ns()
        cursor_ns = end_ns - round(total_s * 1e9)
        span = self._tracer.start_span(
            f"cloud {frame.kind.value}",
            context=tracing.parent_from(frame.traceparent),
            kind=trace.SpanKind.SERVER,
            start_time=cursor_ns,
            attributes={
                names.TIER: "cloud",
                names.ROUND_INDEX: frame.round,
                names.FRAME_START_POS: frame.start_pos,
                names.FRAME_TOKENS: frame.num_tokens,
                names.BATCHED_TOKENS: batched_tokens,
            },
        )
        if span.is_recording():
            parent = trace.set_span_in_context(span, otel_context.Context())
            for phase, duration_s in durations:
                child = self._tracer.start_span(phase.value, context=parent, start_time=cursor_ns)
                cursor_ns += round(duration_s * 1e9)
                child.end(end_time=cursor_ns)
        if error is not None:
            span.set_attribute(names.ERROR_TYPE, type(error).__name__)
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        span.end(end_time=end_ns)
