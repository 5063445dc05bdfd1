"""Sends spans to an OTLP receiver over gRPC, without ever making a request wait or a log grow.

Spans are queued by the SDK and sent by a thread of its own; when the queue is full they are dropped. While the receiver
is away so is what comes, but for a batch every `_TRY_EVERY_S`; the log says so once, and once more when it is back.
Used by `tracing` alone; the SDK's exporter is imported here and only when an endpoint is set.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc import trace_exporter
from opentelemetry.sdk import trace as sdk_trace
from opentelemetry.sdk.trace import export

_TIMEOUT_S = 3.0  # arbitrary: for one batch, its retries included; also about what ending a process may wait
_TRY_EVERY_S = 5.0  # arbitrary: encoding what cannot be sent would cost requests their processor time
_DELAY_MS = 2000.0  # arbitrary: how long a span waits for others
_MOST_QUEUED = 4096  # arbitrary: some hundred requests; about 8 MB
# They would say the same again for every batch.
_CHATTY = ("opentelemetry.exporter.otlp.proto.grpc", "opentelemetry.sdk._shared_internal")

_log = logging.getLogger(__name__)


class OtlpExporter(export.SpanExporter):
    """The SDK's exporter, which fails quietly and ends soon. `export` runs on the processor's thread."""

    def __init__(self, endpoint: str) -> None:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._endpoint = endpoint
        self._inner = trace_exporter.OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S)
        self._away = False
        self._ending = False
        self._failed_s = 0.0

    def export(self, spans: Sequence[sdk_trace.ReadableSpan]) -> export.SpanExportResult:
        if self._away and (self._ending or time.monotonic() - self._failed_s < _TRY_EVERY_S):
            return export.SpanExportResult.FAILURE
        result = self._inner.export(spans)
        away = result is not export.SpanExportResult.SUCCESS
        self._failed_s = time.monotonic()
        if away != self._away:
            self._away = away
            if away:
                _log.warning("traces cannot be sent to %s; they are dropped until it answers", self._endpoint)
            else:
                _log.info("traces are sent to %s again", self._endpoint)
        return result

    def end_soon(self) -> None:
        """What is queued is sent if the receiver answers; nobody waits for one that does not."""
        self._ending = True

    def shutdown(self) -> None:
        self._inner.shutdown()


def processor(exporter: OtlpExporter) -> export.BatchSpanProcessor:
    """The queue in front of `exporter`, and its thread."""
    return export.BatchSpanProcessor(exporter, max_queue_size=_MOST_QUEUED, schedule_delay_millis=_DELAY_MS)
