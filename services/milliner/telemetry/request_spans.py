"""One request's OpenTelemetry spans: the root, a child per round, a grandchild per phase. Used by `record` alone.

Only the API is imported, so without an SDK all of this costs next to nothing. Times are seconds from the request's
start, added to one reading of the wall clock; a span is never made *current*, because context does not survive an
asynchronous generator's `yield`.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import context as otel_context
from opentelemetry import trace

from milliner.telemetry import attributes as names
from milliner.telemetry.summary import PhaseSpan, RequestSummary

AttributeValue = str | bool | int | float


class RequestSpans:
    """Opens the root span at once; `end` closes it."""

    def __init__(
        self,
        name: str,
        *,
        tracer: trace.Tracer,
        parent: otel_context.Context,
        attributes: Mapping[str, AttributeValue],
        anchor_ns: int,
    ) -> None:
        self._tracer = tracer
        self._anchor_ns = anchor_ns
        self._root = tracer.start_span(
            name, context=parent, kind=trace.SpanKind.SERVER, start_time=anchor_ns, attributes=dict(attributes)
        )
        self._root_context = trace.set_span_in_context(self._root, otel_context.Context())
        self._recording = self._root.is_recording()
        self._round: trace.Span | None = None
        self._round_context = self._root_context

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits, or "" where nothing is traced or this request is not sampled: nobody could find it."""
        return f"{self._root.get_span_context().trace_id:032x}" if self._recording else ""

    @property
    def traceparent(self) -> str:
        """W3C `traceparent` of the open round, of the request between rounds; "" where nothing is traced."""
        context = (self._round or self._root).get_span_context()
        if not context.is_valid:
            return ""
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def start_round(self, index: int, kind: str, *, start_s: float) -> None:
        self._round = self._tracer.start_span(
            f"round {kind}",
            context=self._root_context,
            start_time=self._wall(start_s),
            attributes={names.ROUND_INDEX: index, names.ROUND_KIND: kind},
        )
        self._round_context = trace.set_span_in_context(self._round, otel_context.Context())

    def rename_round(self, kind: str) -> None:
        assert self._round is not None, "no round is open"
        self._round.update_name(f"round {kind}")
        self._round.set_attribute(names.ROUND_KIND, kind)

    def end_round(self, *, emitted_tokens: int, end_s: float) -> None:
        assert self._round is not None, "no round is open"
        self._round.set_attribute(names.ROUND_TOKENS, emitted_tokens)
        self._round.end(end_time=self._wall(end_s))
        self._round, self._round_context = None, self._root_context

    def phase(self, span: PhaseSpan, attributes: Mapping[str, AttributeValue], *, end_s: float) -> None:
        """A phase that is over: under the open round, or under the request."""
        if not self._recording:
            return
        self._tracer.start_span(
            span.phase.value,
            context=self._round_context,
            start_time=self._wall(span.start_s),
            attributes={**attributes, names.PHASE_HIDDEN: True} if span.hidden else dict(attributes),
        ).end(end_time=self._wall(end_s))

    def end(self, summary: RequestSummary, error: BaseException | None) -> None:
        """Writes the request's figures on the root span and ends it."""
        root = self._root
        if self._recording:
            root.set_attributes(_figures(summary))
        if error is not None:
            # The class only: messages of our errors may quote what a client sent.
            root.set_status(trace.StatusCode.ERROR, type(error).__name__)
        root.end(end_time=self._wall(summary.duration_s))

    def _wall(self, elapsed_s: float) -> int:
        return self._anchor_ns + round(elapsed_s * 1e9)


def _figures(summary: RequestSummary) -> dict[str, AttributeValue | list[str]]:
    figures: dict[str, AttributeValue | list[str]] = {
        names.USAGE_INPUT_TOKENS: summary.prompt_tokens,
        names.USAGE_OUTPUT_TOKENS: summary.generated_tokens,
        names.USAGE_CACHED_TOKENS: summary.cached_tokens,
        names.RESPONSE_ID: summary.request_id,
        names.RESPONSE_MODEL: summary.model,
    }
    if summary.finish_reason is not None:
        figures[names.RESPONSE_FINISH_REASONS] = [summary.finish_reason]
    if summary.ttft_s is not None:
        figures[names.RESPONSE_TIME_TO_FIRST_CHUNK] = summary.ttft_s
    if summary.error_type is not None:
        figures[names.ERROR_TYPE] = summary.error_type
    figures |= {f"{names.PHASES_S_PREFIX}{phase}": seconds for phase, seconds in summary.phases_s.items()}
    return figures | {f"{names.COUNTER_PREFIX}{name}": value for name, value in summary.counters.items()}
