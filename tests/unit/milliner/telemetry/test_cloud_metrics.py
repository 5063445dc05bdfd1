"""Metrics of a cloud replica: what is counted, and the mean queue time that autoscalers read."""

from __future__ import annotations

from tests.unit.milliner.telemetry import test_otlp

from milliner.core import errors, types
from milliner.telemetry import cloud_metrics


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def answer(metrics: cloud_metrics.CloudMetrics, *, queue_s: float) -> None:
    reply = types.HiddenReply(
        session_id="s",
        round=1,
        start_pos=0,
        kv_len=1,
        payload=None,
        queue_s=queue_s,
        compute_s=0.02,
        batched_tokens=1,
        load=types.LoadReport(),
    )
    metrics.answered(test_otlp.frame(""), reply)


def test_frames_failures_and_load_are_told() -> None:
    metrics = cloud_metrics.CloudMetrics(clock=Time())
    answer(metrics, queue_s=0.1)
    answer(metrics, queue_s=0.3)
    metrics.failed(errors.PositionMismatch("gap"))
    load = types.LoadReport(running_sessions=3, waiting_frames=2, kv_used_share=0.25)
    body, content_type = metrics.render("", load, types.SwapReport())
    assert content_type.startswith("text/plain")
    lines = body.decode().splitlines()
    assert f'milliner_cloud_frames_total{{kind="{types.FrameKind.VERIFY.value}"}} 2.0' in lines
    assert 'milliner_cloud_frame_failures_total{error_type="PositionMismatch"} 1.0' in lines
    assert "milliner_cloud_queue_seconds_sum 0.4" in lines
    assert "milliner_queue_milliseconds 200.0" in lines
    assert "milliner_cloud_sessions 3.0" in lines
    assert "milliner_cloud_waiting_frames 2.0" in lines
    assert "milliner_cloud_kv_cache_usage_perc 0.25" in lines


def test_caches_that_moved_are_counted_once() -> None:
    metrics = cloud_metrics.CloudMetrics(clock=Time())
    load = types.LoadReport()
    metrics.render("", load, types.SwapReport(sequences=2, used_bytes=30, moved_out_bytes=50, moved_in_bytes=20))
    swap = types.SwapReport(sequences=1, used_bytes=10, moved_out_bytes=60, moved_in_bytes=50)
    lines = metrics.render("", load, swap)[0].decode().splitlines()
    assert "milliner_cloud_kv_swapped_sessions 1.0" in lines
    assert "milliner_cloud_kv_swapped_bytes 10.0" in lines
    assert 'milliner_cloud_kv_moved_bytes_total{to="host"} 60.0' in lines
    assert 'milliner_cloud_kv_moved_bytes_total{to="accelerator"} 50.0' in lines


def test_the_queue_time_is_of_the_last_moments_and_falls_back_to_nothing() -> None:
    time = Time()
    metrics = cloud_metrics.CloudMetrics(clock=time)
    assert metrics.queue_ms == 0.0
    for second in range(60):
        answer(metrics, queue_s=0.5 if second < 30 else 0.1)
        time.now_s += 1
    assert abs(metrics.queue_ms - 100.0) < 1e-6
    time.now_s += 31
    assert metrics.queue_ms == 0.0
