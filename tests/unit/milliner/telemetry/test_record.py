"""A request's record on a clock that only moves when told: sums, spans, and what survives failure."""

from __future__ import annotations

import dataclasses

import pytest
from opentelemetry.sdk import trace as sdk_trace

from milliner.telemetry import attributes as names
from milliner.telemetry import record, tracing
from milliner.telemetry.phases import Phase

WALL_NS = 1_700_000_000_000_000_000


@dataclasses.dataclass
class ManualClock:
    at_s: float = 100.0

    def now(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds

    def pass_s(self, seconds: float) -> None:
        self.at_s += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def traced() -> tracing.Tracing:
    return tracing.set_up(tier="device", topology="chat")


def open_record(clock: ManualClock, traced: tracing.Tracing | None = None, **more: object) -> record.RequestRecord:
    return record.RequestRecord(
        clock=clock,
        request_id="req-1",
        operation="chat",
        model="demo",
        strategy="Hat",
        prompt_tokens=7,
        tracer=traced.tracer if traced else None,
        wall_ns=lambda: WALL_NS,
        **more,  # type: ignore[arg-type]
    )


def run_request(clock: ManualClock, request_record: record.RequestRecord) -> None:
    """Tokenize 10 ms; prefill 500 ms; two verifications of 100 ms with 3 tokens each, drafting hidden behind."""
    with request_record.phase(Phase.TOKENIZE):
        clock.pass_s(0.010)
    request_record.start_round(0, "prefill")
    with request_record.phase(Phase.DEVICE_FORWARD):
        clock.pass_s(0.100)
    clock.pass_s(0.400)
    request_record.add_round_trip(0.400, queue_s=0.050, compute_s=0.250, codec_s=0.010)
    request_record.emitted(1)
    request_record.end_round()
    for index in (1, 2):
        request_record.start_round(index, "verify")
        with request_record.phase(Phase.DRAFT):
            clock.pass_s(0.020)
        clock.pass_s(0.070)
        request_record.add(Phase.DRAFT, 0.015, hidden=True)
        request_record.add_round_trip(0.070, queue_s=0.0, compute_s=0.030)
        with request_record.phase(Phase.VERIFY):
            clock.pass_s(0.010)
        request_record.emitted(3)
        request_record.count(num_rounds=1, num_drafted=4, num_accepted=2)
        request_record.end_round()


def by_name(spans: tuple[sdk_trace.ReadableSpan, ...], name: str) -> list[sdk_trace.ReadableSpan]:
    return [span for span in spans if span.name == name]


def span_s(span: sdk_trace.ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_times_of_tokens(clock: ManualClock) -> None:
    request_record = open_record(clock)
    run_request(clock, request_record)
    summary = request_record.finish(finish_reason="stop")
    assert summary.ttft_s == pytest.approx(0.510)
    assert summary.tbt_s == pytest.approx((0.1, 0.1))
    assert summary.generated_tokens == 7
    assert summary.tpot_s == pytest.approx(0.2 / 6)  # two rounds of 100 ms bring six tokens after the first
    assert summary.duration_s == pytest.approx(0.710)
    assert summary.acceptance_length == pytest.approx(3.0)


def test_phases_sum_to_rounds_and_rounds_to_the_request(clock: ManualClock) -> None:
    request_record = open_record(clock)
    run_request(clock, request_record)
    summary = request_record.finish(finish_reason="stop")
    for round_ in summary.rounds:
        assert round_.attributed_s == pytest.approx(round_.duration_s, rel=0.05)
    outside_s = sum(span.duration_s for span in summary.outside_rounds)
    assert sum(round_.duration_s for round_ in summary.rounds) + outside_s == pytest.approx(summary.duration_s)
    assert summary.hidden_phases_s == {Phase.DRAFT: pytest.approx(0.030)}
    assert summary.phases_s[Phase.DRAFT] == pytest.approx(0.040)  # hidden drafting is not in it
    assert summary.phases_s[Phase.NETWORK] == pytest.approx(0.090 + 2 * 0.040)


def test_a_round_trip_shorter_than_what_the_cloud_reports_still_sums(clock: ManualClock) -> None:
    """The cloud worked on an earlier chunk while the device was busy: less was waited for than was computed."""
    request_record = open_record(clock)
    request_record.start_round(0, "prefill")
    clock.pass_s(0.1)
    request_record.add_round_trip(0.1, queue_s=0.1, compute_s=0.3)
    summary = request_record.finish(finish_reason="length")
    assert summary.rounds[0].attributed_s == pytest.approx(0.1)
    assert summary.phases_s[Phase.CLOUD_FORWARD] == pytest.approx(0.075)
    assert summary.phases_s[Phase.NETWORK] == 0.0


def test_nested_phases_are_not_counted_twice(clock: ManualClock) -> None:
    request_record = open_record(clock)
    request_record.start_round(0, "prefill")
    with request_record.phase(Phase.DRAFT):
        clock.pass_s(0.1)
        with request_record.phase(Phase.DEVICE_FORWARD):
            clock.pass_s(0.2)
        request_record.add(Phase.PACK, 0.05)
        clock.pass_s(0.05)
    summary = request_record.finish(finish_reason="stop")
    assert summary.phases_s == {
        Phase.DRAFT: pytest.approx(0.1),
        Phase.DEVICE_FORWARD: pytest.approx(0.2),
        Phase.PACK: pytest.approx(0.05),
    }


def test_spans_form_one_tree_with_the_durations(clock: ManualClock, traced: tracing.Tracing) -> None:
    request_record = open_record(clock, traced)
    run_request(clock, request_record)
    summary = request_record.finish(finish_reason="stop")
    spans = traced.recent.spans(trace_id=summary.trace_id)
    assert spans == traced.recent.spans()
    (root,) = by_name(spans, "chat demo")
    rounds = by_name(spans, "round prefill") + by_name(spans, "round verify")
    assert root.start_time == WALL_NS
    assert span_s(root) == pytest.approx(0.710)
    assert {round_.parent.span_id for round_ in rounds if round_.parent} == {root.context.span_id}
    for round_ in rounds:
        children = [span for span in spans if span.parent and span.parent.span_id == round_.context.span_id]
        critical = [child for child in children if not (child.attributes or {}).get(names.PHASE_HIDDEN)]
        assert sum(map(span_s, critical)) == pytest.approx(span_s(round_), rel=0.05)
        assert all(child.start_time >= round_.start_time for child in children)  # type: ignore[operator]
        assert all(child.end_time <= round_.end_time for child in children)  # type: ignore[operator]
    attributes = root.attributes or {}
    assert attributes[names.OPERATION_NAME] == "chat"
    assert attributes[names.PROVIDER_NAME] == "milliner"
    assert attributes[names.USAGE_INPUT_TOKENS] == 7
    assert attributes[names.USAGE_OUTPUT_TOKENS] == 7
    assert attributes[names.RESPONSE_FINISH_REASONS] == ("stop",)


def test_traceparent_is_the_open_rounds(clock: ManualClock, traced: tracing.Tracing) -> None:
    request_record = open_record(clock, traced)
    between = request_record.traceparent
    request_record.start_round(0, "prefill")
    version, trace_id, span_id, flags = request_record.traceparent.split("-")
    assert request_record.traceparent != between
    summary = request_record.finish(finish_reason="stop")
    (round_span,) = by_name(traced.recent.spans(), "round prefill")
    assert (version, trace_id) == ("00", summary.trace_id)
    assert int(span_id, 16) == round_span.context.span_id
    assert int(flags, 16) & 1  # sampled


def test_the_callers_trace_is_continued(clock: ManualClock, traced: tracing.Tracing) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = tracing.parent_from(f"00-{trace_id}-00f067aa0ba902b7-01")
    assert open_record(clock, traced, parent=parent).finish(finish_reason="stop").trace_id == trace_id
    malformed = tracing.parent_from("00-nonsense")
    assert open_record(clock, traced, parent=malformed).finish(finish_reason="stop").trace_id not in ("", trace_id)


def test_a_round_that_turned_out_to_be_of_another_kind(clock: ManualClock, traced: tracing.Tracing) -> None:
    request_record = open_record(clock, traced)
    request_record.rename_round("device")  # none is open: nothing happens
    request_record.start_round(1, "cloud")
    request_record.rename_round("device")
    summary = request_record.finish(finish_reason="stop")
    assert [round_.kind for round_ in summary.rounds] == ["device"]
    (span,) = by_name(traced.recent.spans(), "round device")
    assert (span.attributes or {})[names.ROUND_KIND] == "device"


def test_a_failed_request_ends_every_span_and_says_why_without_text(
    clock: ManualClock, traced: tracing.Tracing
) -> None:
    request_record = open_record(clock, traced)
    request_record.start_round(0, "prefill")
    with pytest.raises(ValueError, match="invalid literal"), request_record.phase(Phase.DEVICE_FORWARD):
        int("secret prompt")
    summary = request_record.finish(finish_reason=None, error=ValueError("secret prompt"))
    assert summary.error_type == "ValueError"
    spans = traced.recent.spans()
    assert {span.name for span in spans} == {"chat demo", "round prefill", "device_forward"}
    (root,) = by_name(spans, "chat demo")
    assert not root.status.is_ok
    assert (root.attributes or {})[names.ERROR_TYPE] == "ValueError"
    assert "secret" not in "".join(span.to_json() for span in spans)


def test_finishing_twice_changes_nothing(clock: ManualClock, traced: tracing.Tracing) -> None:
    request_record = open_record(clock, traced)
    first = request_record.finish(finish_reason="stop")
    clock.pass_s(1.0)
    assert request_record.finish(finish_reason=None, error=ValueError()) is first
    assert len(traced.recent.spans()) == 1


def test_without_a_tracer_nothing_is_traced_and_all_is_measured(clock: ManualClock) -> None:
    request_record = open_record(clock)
    run_request(clock, request_record)
    assert request_record.traceparent == ""
    summary = request_record.finish(finish_reason="stop")
    assert summary.trace_id == ""
    assert summary.phases_s[Phase.TOKENIZE] == pytest.approx(0.010)


def test_recent_spans_are_bounded(clock: ManualClock) -> None:
    recent = tracing.RecentSpans(capacity=3)
    traced = tracing.set_up(tier="device")
    for _ in range(5):
        open_record(clock, traced).finish(finish_reason="stop")
    for span in traced.recent.spans():
        recent.on_end(span)
    assert recent.spans() == traced.recent.spans()[-3:]


def test_sampling_zero_records_nothing_but_keeps_figures(clock: ManualClock) -> None:
    traced = tracing.set_up(tier="device", sampling_percent=0.0)
    request_record = open_record(clock, traced)
    run_request(clock, request_record)
    assert request_record.traceparent.endswith(("-00", "-02"))  # the cloud must not sample it either
    assert request_record.finish(finish_reason="stop").generated_tokens == 7
    assert traced.recent.spans() == ()
