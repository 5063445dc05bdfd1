"""Prometheus metrics of a device: vLLM's meanings under the prefix `milliner_`, fed by `RequestSummary`.

Each instance owns its registry, so several can live in one process. `render` speaks the plain text format, or
OpenMetrics with exemplars (trace ids) where the scraper asks for it.
"""

from __future__ import annotations

import prometheus_client
from prometheus_client import exposition

from milliner.telemetry import summary as summaries
from milliner.telemetry.phases import Phase

# Buckets in seconds from OpenTelemetry's GenAI metrics (gen_ai.server.time_to_first_token, time_per_output_token,
# gen_ai.client.operation.duration).
TTFT_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS_S = tuple(0.01 * 2**exponent for exponent in range(14))  # 0.01 ... 81.92


class DeviceMetrics:
    """All metrics of one device's API. Every metric carries the labels `model_name` and `strategy`."""

    def __init__(self, *, model: str, strategy: str) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._labels = {"model_name": model, "strategy": strategy}
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
        self.running = gauge("num_requests_running", "Requests being generated")
        self.waiting = gauge("num_requests_waiting", "Requests waiting for a slot")
        self.kv_usage = gauge("kv_cache_usage_perc", "Share of the device's KV cache in use, 0 to 1")
        self.ttft = histogram("time_to_first_token_seconds", "Request's arrival to first token", TTFT_BUCKETS_S)
        self.itl = histogram(
            "inter_token_latency_seconds",
            "Gaps between emissions (TBT); a round that emits several tokens counts once",
            PER_TOKEN_BUCKETS_S,
        )
        self.tpot = histogram(
            "request_time_per_output_token_seconds",
            "Per request (last - first emission) / (tokens - 1) (TPOT)",
            PER_TOKEN_BUCKETS_S,
        )
        self.e2e = histogram("e2e_request_latency_seconds", "Request's arrival to end", DURATION_BUCKETS_S)
        self.queue = histogram(
            "request_queue_time_seconds", "Waiting for a slot of the API and in the cloud", DURATION_BUCKETS_S
        )
        self.prefill = histogram("request_prefill_time_seconds", "Prefill rounds of a request", DURATION_BUCKETS_S)
        self.decode = histogram("request_decode_time_seconds", "Rounds after prefill of a request", DURATION_BUCKETS_S)
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens")
        self.cached_tokens = counter("prompt_tokens_cached", "Prompt tokens that an earlier request had computed")
        self.generation_tokens = counter("generation_tokens", "Generated tokens")
        self.success = counter("request_success", "Requests that ended well", "finished_reason")
        self.failure = counter("request_failure", "Requests that failed or were cancelled", "error_type")
        self.drafts = counter("spec_decode_num_drafts", "Verifications of drafts")
        self.draft_tokens = counter("spec_decode_num_draft_tokens", "Drafted tokens")
        self.accepted_tokens = counter("spec_decode_num_accepted_tokens", "Accepted drafted tokens")
        self.accepted_per_pos = counter(
            "spec_decode_num_accepted_tokens_per_pos", "Accepted drafts by position in the draft, from 0", "position"
        )
        self.hidden_rounds = counter("spec_decode_num_hidden_rounds", "Verifications whose drafting was hidden")
        self.bytes = counter("link_bytes", "Payload bytes between the tiers", "direction")
        self.phase_s = counter("phase_seconds", "Seconds by phase; hidden ones overlapped others", "phase", "hidden")
        self.events = {
            name: counter(name, help_text)
            for name, help_text in (
                ("rollbacks", "KV cache rollbacks"),
                ("recoveries", "Cloud sessions rebuilt on another stream"),
                ("fallbacks", "Requests that went on without the cloud"),
                ("cloud_tokens_shown", "Tokens of PDDevice's answers that the cloud generated"),
                ("cloud_not_asked", "Requests of PDDevice that the device would answer sooner alone"),
                ("prompt_tokens_left_out", "Prompt tokens that refinement kept from the device"),
            )
        }
        histograms = (self.ttft, self.itl, self.tpot, self.e2e, self.queue, self.prefill, self.decode)
        for metric in (*histograms, *self.events.values()):
            metric.labels(**self._labels)  # so that it is there, at zero, from the first scrape

    def observe(self, summary: summaries.RequestSummary) -> None:
        """Counts a finished request, failed ones included."""
        labels = self._labels
        exemplar = {"trace_id": summary.trace_id} if summary.trace_id else None
        if summary.error_type is None:
            self.success.labels(**labels, finished_reason=summary.finish_reason or "unknown").inc()
        else:
            self.failure.labels(**labels, error_type=summary.error_type).inc()
        if summary.ttft_s is not None:
            self.ttft.labels(**labels).observe(summary.ttft_s, exemplar=exemplar)
        for gap_s in summary.tbt_s:
            self.itl.labels(**labels).observe(gap_s, exemplar=exemplar)
        if summary.tpot_s is not None:
            self.tpot.labels(**labels).observe(summary.tpot_s, exemplar=exemplar)
        self.e2e.labels(**labels).observe(summary.duration_s, exemplar=exemplar)
        self.queue.labels(**labels).observe(summary.phases_s.get(Phase.QUEUE, 0.0))
        prefill_s = sum(round_.duration_s for round_ in summary.rounds if round_.kind == "prefill")
        self.prefill.labels(**labels).observe(prefill_s)
        self.decode.labels(**labels).observe(sum(round_.duration_s for round_ in summary.rounds) - prefill_s)
        self.prompt_tokens.labels(**labels).inc(summary.prompt_tokens)
        self.cached_tokens.labels(**labels).inc(summary.cached_tokens)
        self.generation_tokens.labels(**labels).inc(summary.generated_tokens)
        self._observe_phases(summary)
        self._observe_counters(summary)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The metrics and their content type, in the format that the `Accept` header asks for."""
        encoder, content_type = exposition.choose_encoder(accept)
        return encoder(self.registry), content_type

    def set_gauges(self, *, running: int, waiting: int, kv_used_share: float | None) -> None:
        """States of now; called at each scrape."""
        self.running.labels(**self._labels).set(running)
        self.waiting.labels(**self._labels).set(waiting)
        if kv_used_share is not None:
            self.kv_usage.labels(**self._labels).set(kv_used_share)

    def _observe_phases(self, summary: summaries.RequestSummary) -> None:
        for hidden, sums in (("false", summary.phases_s), ("true", summary.hidden_phases_s)):
            for phase, seconds in sums.items():
                self.phase_s.labels(**self._labels, phase=Phase(phase).value, hidden=hidden).inc(seconds)

    def _observe_counters(self, summary: summaries.RequestSummary) -> None:
        labels, counters = self._labels, summary.counters
        for direction in ("up", "down"):
            self.bytes.labels(**labels, direction=direction).inc(counters.get(f"bytes_{direction}", 0))
        for name, event in self.events.items():
            event.labels(**labels).inc(counters.get(name, 0))
        if not counters.get("num_drafted"):
            return
        self.drafts.labels(**labels).inc(summary.verify_rounds)
        self.draft_tokens.labels(**labels).inc(counters["num_drafted"])
        self.accepted_tokens.labels(**labels).inc(counters.get("num_accepted", 0))
        self.hidden_rounds.labels(**labels).inc(counters.get("num_hidden_rounds", 0))
        for round_ in summary.rounds:
            # A verification emits its accepted drafts and the target's own choice.
            for position in range(round_.emitted_tokens - 1 if round_.kind != "prefill" else 0):
                self.accepted_per_pos.labels(**labels, position=str(position)).inc()

    def _gauge(self, name: str, help_text: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(f"milliner_{name}", help_text, list(self._labels), registry=self.registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(
            f"milliner_{name}", help_text, [*self._labels, *labels], registry=self.registry
        )

    def _histogram(self, name: str, help_text: str, buckets_s: tuple[float, ...]) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(
            f"milliner_{name}", help_text, list(self._labels), buckets=buckets_s, registry=self.registry
        )
