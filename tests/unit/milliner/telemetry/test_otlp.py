"""Export to a real OTLP receiver: one trace of both tiers, sampling decided once, a receiver that is away."""

from __future__ import annotations

import logging
import time

import pytest
from tests.unit.milliner.telemetry import otlp_receiver

from milliner.core import clock, errors, types
from milliner.telemetry import cloud_span, otlp, record, tracing
from milliner.telemetry.phases import Phase


def frame(traceparent: str) -> types.HiddenFrame:
    return types.HiddenFrame(
        session_id="s",
        round=1,
        commit_pos=0,
        start_pos=0,
        kind=types.FrameKind.VERIFY,
        payloads=(),
        reply_positions=types.ReplyPositions.ALL,
        reply_codec=types.Codec.FLOAT32,
        traceparent=traceparent,
    )


def serve(
    device: tracing.Tracing, cloud: tracing.Tracing, *, parent: str = "", error: BaseException | None = None
) -> str:
    """One request of one round, which the cloud answers or refuses; returns its trace id."""
    one = record.RequestRecord(
        clock=clock.LoopClock(),
        request_id="r",
        operation="chat",
        model="toy",
        strategy="Hat",
        tracer=device.tracer,
        parent=tracing.parent_from(parent),
    )
    one.start_round(1, "verify")
    sent = frame(one.traceparent)
    spans = cloud_span.CloudSpans(cloud.tracer)
    if error is None:
        reply = types.HiddenReply(
            session_id="s",
            round=1,
            start_pos=0,
            kv_len=1,
            payload=None,
            queue_s=0.001,
            compute_s=0.002,
            batched_tokens=1,
            load=types.LoadReport(),
            codec_s=0.0005,
        )
        spans.answered(sent, reply)
        one.add_round_trip(0.01, queue_s=0.001, compute_s=0.002, codec_s=0.0005)
    else:
        spans.failed(sent, error, duration_s=0.003)
    one.add(Phase.TAKEOVER, 0.001)
    one.count(recoveries=1)
    return one.finish(finish_reason=None if error else "stop", error=error).trace_id


@pytest.mark.parametrize("error", [None, errors.UnavailableError("gone")])
def test_a_request_of_both_tiers_arrives_as_one_trace(error: BaseException | None) -> None:
    with otlp_receiver.receiving() as receiver:
        device = tracing.set_up(tier="device", topology="chat", instance="a", otlp_endpoint=receiver.url)
        cloud = tracing.set_up(tier="cloud", topology="chat", instance="b", otlp_endpoint=receiver.url)
        trace_id = serve(device, cloud, error=error)
        device.shutdown()
        cloud.shutdown()
        assert list(receiver.traces()) == [trace_id]
        spans = {(span.service, span.name): span for span in receiver.spans}
        served_name = f"cloud {types.FrameKind.VERIFY.value}"
        root, served = spans["milliner-device", "chat toy"], spans["milliner-cloud", served_name]
        assert served.parent_id == spans["milliner-device", "round verify"].span_id
        assert spans["milliner-device", "round verify"].parent_id == root.span_id
        assert root.failed == served.failed == (error is not None)
        assert root.attributes["milliner.count.recoveries"] == 1
        assert ("milliner-device", "takeover") in spans
        assert root.attributes.get("error.type") == (None if error is None else "UnavailableError")


def test_the_device_decides_which_requests_are_traced_and_the_cloud_follows() -> None:
    with otlp_receiver.receiving() as receiver:
        device = tracing.set_up(tier="device", sampling_percent=30, otlp_endpoint=receiver.url)
        cloud = tracing.set_up(tier="cloud", sampling_percent=0, otlp_endpoint=receiver.url)
        for _ in range(300):
            serve(device, cloud)
        device.shutdown()
        cloud.shutdown()
        traces = receiver.traces()
        assert 50 <= len(traces) <= 130  # 30 % of 300; five standard deviations are 40
        for spans in traces.values():
            assert {span.service for span in spans} == {"milliner-device", "milliner-cloud"}


@pytest.mark.parametrize(("flags", "traced"), [("01", True), ("00", False)])
def test_a_callers_decision_holds(flags: str, traced: bool) -> None:
    with otlp_receiver.receiving() as receiver:
        percent = 0 if traced else 100
        device = tracing.set_up(tier="device", sampling_percent=percent, otlp_endpoint=receiver.url)
        told = serve(device, tracing.set_up(tier="cloud"), parent=f"00-{'a' * 32}-{'b' * 16}-{flags}")
        assert told == ("a" * 32 if traced else "")  # metrics point to no trace that is not there
        device.shutdown()
        assert [*receiver.traces()] == (["a" * 32] if traced else [])


def test_a_receiver_that_is_away_costs_one_warning_and_no_time(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(otlp, "_TRY_EVERY_S", 0.2)
    monkeypatch.setattr(otlp, "_DELAY_MS", 50.0)
    caplog.set_level(logging.INFO)
    port = otlp_receiver.free_port()
    device = tracing.set_up(tier="device", otlp_endpoint=f"http://127.0.0.1:{port}")
    cloud = tracing.set_up(tier="cloud")
    took_s = []
    for _ in range(1000):  # more spans than the queue holds
        started_s = time.monotonic()
        serve(device, cloud)
        took_s.append(time.monotonic() - started_s)
    # Each wait for the receiver would be 0.2 s or more, and there would be one for most; a busy machine has hiccups.
    assert sum(each >= 0.2 for each in took_s) < 20
    until_warned(caplog)
    with otlp_receiver.receiving(port=port) as receiver:
        deadline_s = time.monotonic() + 20
        while not receiver.spans:
            assert time.monotonic() < deadline_s
            serve(device, cloud)
            time.sleep(0.05)
        device.shutdown()
    said = [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith("opentelemetry")]
    assert said == []
    assert [each.levelname for each in caplog.records if each.name == otlp.__name__] == ["WARNING", "INFO"]


def test_ending_does_not_wait_for_a_receiver_that_hangs() -> None:
    with otlp_receiver.receiving() as receiver:
        receiver.silent.set()
        device = tracing.set_up(tier="device", otlp_endpoint=receiver.url)
        for _ in range(1000):  # several batches
            serve(device, tracing.set_up(tier="cloud"))
        started_s = time.monotonic()
        device.shutdown()
        assert time.monotonic() - started_s < 8  # two batches' deadlines and a busy machine, not one for each


def until_warned(caplog: pytest.LogCaptureFixture) -> None:
    deadline_s = time.monotonic() + 20
    while not any(each.name == otlp.__name__ for each in caplog.records):
        assert time.monotonic() < deadline_s, "nobody was told"
        time.sleep(0.02)
