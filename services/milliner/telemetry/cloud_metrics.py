"""Prometheus metrics of a cloud replica: frames, where their time went, load. Fed by the cloud's service.

`milliner_queue_milliseconds` is what autoscalers read: a mean over the last moments, which falls back to 0 when nobody
asks. Each instance owns its registry. Event loop only.
"""

from __future__ import annotations

import collections
import dataclasses

import prometheus_client
from prometheus_client import exposition

from milliner.core import ports, types
from milliner.telemetry.metrics import DURATION_BUCKETS_S, TTFT_BUCKETS_S

_WINDOW_S = 30  # arbitrary: two of an autoscaler's looks


@dataclasses.dataclass(slots=True)
class _Second:
    at_s: int
    queue_s: float = 0.0
    frames: int = 0


class CloudMetrics:
    """See the module."""

    def __init__(self, *, clock: ports.Clock) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._clock = clock
        self._seconds: collections.deque[_Second] = collections.deque()
        self._frames = self._counter("cloud_frames", "Frames answered, by kind", "kind")
        self._failures = self._counter("cloud_frame_failures", "Frames refused or failed", "error_type")
        self._tokens = self._counter("cloud_tokens", "Positions computed")
        self._queue = self._histogram("cloud_queue_seconds", "A frame's wait for a batch", DURATION_BUCKETS_S)
        self._compute = self._histogram("cloud_compute_seconds", "A frame's forward passes", TTFT_BUCKETS_S)
        self._queue_ms = self._gauge("queue_milliseconds", f"Mean wait for a batch over the last {_WINDOW_S} s")
        self._sessions = self._gauge("cloud_sessions", "Open sessions")
        self._waiting = self._gauge("cloud_waiting_frames", "Frames waiting for a batch")
        self._kv_usage = self._gauge("cloud_kv_cache_usage_perc", "Share promised of the KV cache that may be, 0 to 1")
        self._swapped = self._gauge("cloud_kv_swapped_sessions", "Sessions whose KV cache lies in host memory")
        self._swapped_bytes = self._gauge("cloud_kv_swapped_bytes", "Host memory that KV caches fill")
        self._moved = self._counter("cloud_kv_moved_bytes", "Bytes of KV caches moved to and from host memory", "to")
        self._last_swap = types.SwapReport()

    def answered(self, frame: types.HiddenFrame, reply: types.HiddenReply) -> None:
        """A frame was answered just now."""
        self._frames.labels(kind=frame.kind.value).inc()
        self._tokens.inc(frame.num_tokens)
        self._queue.observe(reply.queue_s)
        self._compute.observe(reply.compute_s)
        second = self._recent()
        second.queue_s += reply.queue_s
        second.frames += 1

    def failed(self, error: BaseException) -> None:
        """A frame was refused or failed."""
        self._failures.labels(error_type=type(error).__name__).inc()

    @property
    def queue_ms(self) -> float:
        """Mean wait of the frames answered in the last `_WINDOW_S`, in milliseconds; 0 without frames."""
        self._recent()
        frames = sum(second.frames for second in self._seconds)
        return 1e3 * sum(second.queue_s for second in self._seconds) / frames if frames else 0.0

    def render(self, accept: str, load: types.LoadReport, swap: types.SwapReport) -> tuple[bytes, str]:
        """The metrics with the load and the moved caches of now, and their content type."""
        self._queue_ms.set(self.queue_ms)
        self._sessions.set(load.running_sessions)
        self._waiting.set(load.waiting_frames)
        self._kv_usage.set(load.kv_used_share)
        self._swapped.set(swap.sequences)
        self._swapped_bytes.set(swap.used_bytes)
        self._moved.labels(to="host").inc(swap.moved_out_bytes - self._last_swap.moved_out_bytes)
        self._moved.labels(to="accelerator").inc(swap.moved_in_bytes - self._last_swap.moved_in_bytes)
        self._last_swap = swap
        encoder, content_type = exposition.choose_encoder(accept)
        return encoder(self.registry), content_type

    def _recent(self) -> _Second:
        """The current second's sums; older ones than the window are dropped."""
        now_s = int(self._clock.now())
        while self._seconds and self._seconds[0].at_s <= now_s - _WINDOW_S:
            self._seconds.popleft()
        if not self._seconds or self._seconds[-1].at_s != now_s:
            self._seconds.append(_Second(now_s))
        return self._seconds[-1]

    def _counter(self, name: str, help_text: str, *labels: str) -> prometheus_client.Counter:
        return prometheus_client.Counter(f"milliner_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str) -> prometheus_client.Gauge:
        return prometheus_client.Gauge(f"milliner_{name}", help_text, registry=self.registry)

    def _histogram(self, name: str, help_text: str, buckets_s: tuple[float, ...]) -> prometheus_client.Histogram:
        return prometheus_client.Histogram(f"milliner_{name}", help_text, buckets=buckets_s, registry=self.registry)
