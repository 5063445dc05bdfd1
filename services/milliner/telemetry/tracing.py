"""Sets up OpenTelemetry's SDK for one process: a provider with a tier's resource, a sampler and exporters.

Roles call this once; everything else takes a `Tracer` or nothing. Spans stay in memory (the most recent ones) and go
to an OTLP receiver where there is one. Only sampled requests have spans at all; a tier below follows the decision of
the one above, which travels in `traceparent`. The global provider is left alone, so several tiers can live in one
process.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk import resources
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace import sampling
from opentelemetry.trace.propagation import tracecontext

# Arbitrary: four answers of 25 rounds. A span of a device's round takes 2.8 KB (tracemalloc), all of them 2.8 MB.
RECENT_SPANS = 1_000

if TYPE_CHECKING:
    from milliner.telemetry import otlp

_PROPAGATOR = tracecontext.TraceContextTextMapPropagator()


class RecentSpans(sdk_trace.SpanProcessor):
    """Keeps the last `capacity` finished spans; never grows beyond. Appending to a deque needs no lock.

    A processor of its own, because the SDK's exporter protocol costs more per span than all the rest of it.
    """

    def __init__(self, *, capacity: int = RECENT_SPANS) -> None:
        self._spans: collections.deque[sdk_trace.ReadableSpan] = collections.deque(maxlen=capacity)

    def on_end(self, span: sdk_trace.ReadableSpan) -> None:
        if span.context.trace_flags.sampled:
            self._spans.append(span)

    def spans(self, *, trace_id: str | None = None) -> tuple[sdk_trace.ReadableSpan, ...]:
        """Finished spans, oldest first; only those of one trace (32 hexadecimal digits) where given."""
        spans = tuple(self._spans)
        if trace_id is None:
            return spans
        return tuple(span for span in spans if f"{span.context.trace_id:032x}" == trace_id)


@dataclasses.dataclass(frozen=True, slots=True)
class Tracing:
    """A process's tracing."""

    provider: sdk_trace.TracerProvider
    tracer: trace.Tracer
    recent: RecentSpans
    exporter: otlp.OtlpExporter | None = None

    def shutdown(self) -> None:
        """Sends what is left, which blocks for seconds where the receiver does not answer; not on an event loop."""
        if self.exporter is not None:
            self.exporter.end_soon()
        self.provider.shutdown()


def set_up(
    *,
    tier: str,
    topology: str = "",
    instance: str = "",
    sampling_percent: float = 100.0,
    otlp_endpoint: str = "",
    recent_spans: int = RECENT_SPANS,
) -> Tracing:
    """A provider for one tier (`cloud` or `device`), which sends to `otlp_endpoint` (a URL) if there is one.

    A caller's sampling decision wins over `sampling_percent`. `recent_spans`: how many stay in memory, perhaps none.
    """
    attributes = {"service.name": f"milliner-{tier}", "service.namespace": topology, "service.instance.id": instance}
    provider = sdk_trace.TracerProvider(
        resource=resources.Resource({name: value for name, value in attributes.items() if value}),
        sampler=sampling.ParentBased(sampling.TraceIdRatioBased(sampling_percent / 100.0)),
        shutdown_on_exit=False,
    )
    recent = RecentSpans(capacity=recent_spans)
    provider.add_span_processor(recent)
    exporter = None
    if otlp_endpoint:
        from milliner.telemetry import otlp  # brings protobuf and grpc, which nobody else here needs

        exporter = otlp.OtlpExporter(otlp_endpoint)
        provider.add_span_processor(otlp.processor(exporter))
    return Tracing(provider=provider, tracer=provider.get_tracer("milliner"), recent=recent, exporter=exporter)


def parent_from(traceparent: str) -> otel_context.Context:
    """The context of a W3C `traceparent`; an empty context (a new trace) where it is empty or malformed."""
    return _PROPAGATOR.extract({"traceparent": traceparent}, context=otel_context.Context())
