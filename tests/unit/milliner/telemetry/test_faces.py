"""What readers see of a summary: metrics, JSON, waterfall, and the cloud's spans."""

from __future__ import annotations

import io
import json
import re

import pytest
from prometheus_client import parser
from rich import console

from milliner.core import errors, types
from milliner.telemetry import attributes as names
from milliner.telemetry import cloud_span, metrics, origins, summary_json, tracing, waterfall
from milliner.telemetry.phases import Phase
from milliner.telemetry.summary import PhaseSpan, RequestSummary, RoundSummary


def make_summary(num_verifications: int = 3, **changes: object) -> RequestSummary:
    prefill = RoundSummary(
        0,
        "prefill",
        0.0,
        0.5,
        1,
        (PhaseSpan(Phase.DEVICE_FORWARD, 0.0, 0.1), PhaseSpan(Phase.NETWORK, 0.1, 0.3)),
    )
    verifications = tuple(
        RoundSummary(
            index,
            "verify",
            0.5 + 0.1 * (index - 1),
            0.1,
            3,
            (
                PhaseSpan(Phase.CLOUD_FORWARD, 0.5 + 0.1 * (index - 1), 0.08),
                PhaseSpan(Phase.DRAFT, 0.5 + 0.1 * (index - 1), 0.03, hidden=True),
            ),
        )
        for index in range(1, num_verifications + 1)
    )
    fields: dict[str, object] = {
        "request_id": "r",
        "operation": "chat",
        "model": "demo",
        "strategy": "Hat",
        "prompt_tokens": 7,
        "generated_tokens": 1 + 3 * num_verifications,
        "finish_reason": "stop",
        "error_type": None,
        "duration_s": 0.5 + 0.1 * num_verifications,
        "ttft_s": 0.5,
        "tbt_s": (0.1,) * num_verifications,
        "tpot_s": 0.033,
        "phases_s": {Phase.DEVICE_FORWARD: 0.1, Phase.NETWORK: 0.3, Phase.CLOUD_FORWARD: 0.08 * num_verifications},
        "hidden_phases_s": {Phase.DRAFT: 0.03 * num_verifications},
        "counters": {
            "num_drafted": 4 * num_verifications,
            "num_accepted": 2 * num_verifications,
            "bytes_up": 1000,
            "rollbacks": 2,
        },
        "rounds": (prefill, *verifications),
        "outside_rounds": (PhaseSpan(Phase.TOKENIZE, 0.0, 0.001),),
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        **changes,
    }
    return RequestSummary(**fields)  # type: ignore[arg-type]


def drawn(summary: RequestSummary, width: int, *, colours: bool = False) -> list[str]:
    out = io.StringIO()
    to = console.Console(file=out, width=width, color_system="256" if colours else None, force_terminal=colours)
    waterfall.print_waterfall(summary, to=to)
    return [re.sub("\x1b\\[[0-9;]*m", "", line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_waterfall_fits_and_shows_every_round(width: int, colours: bool) -> None:
    lines = drawn(make_summary(num_verifications=19), width, colours=colours)
    assert max(map(len, lines)) <= width
    assert sum("verify" in line for line in lines) == 19
    assert any("prefill" in line for line in lines)
    hidden, alone = ("▒", "█") if colours else ("c", "C")
    (first,) = (line.split()[-1] for line in lines if line.startswith("1 verify"))
    assert first.strip(hidden + alone).strip("·") == ""
    columns = width - 36
    assert first.count(hidden) == pytest.approx(0.3 * columns, abs=1)  # drafting ran behind 30 of 100 ms
    assert first.count(alone) == pytest.approx(0.5 * columns, abs=1)
    assert first.count("·") == pytest.approx(0.2 * columns, abs=1)
    assert any("cloud_forward" in line for line in lines)


def test_a_long_answer_is_summed_up() -> None:
    lines = drawn(make_summary(num_verifications=60), 100)
    assert sum("verify" in line for line in lines) == waterfall.HEAD_ROWS + waterfall.TAIL_ROWS
    assert any("… 44, mean" in line for line in lines)


def test_where_an_answer_was_handed_over_is_told() -> None:
    rounds = [("cloud", 25), ("device", 40)]
    kinds = ["prefill"] + [kind for kind, count in rounds for _ in range(count)]
    all_rounds = tuple(RoundSummary(index, kind, 0.1 * index, 0.1, 1, ()) for index, kind in enumerate(kinds))
    counters = {"cloud_tokens_shown": 26, "prompt_tokens_left_out": 9}
    summary = make_summary(strategy="PDDevice", generated_tokens=66, counters=counters, rounds=all_rounds)
    lines = drawn(summary, 80)
    assert "26 tokens from the cloud, 40 from the device, 9 prompt tokens left out there" in lines
    assert any("… 13, cloud" in line for line in lines)
    assert any("… 36, device" in line for line in lines)


@pytest.mark.parametrize(
    ("counters", "told"),
    [
        ({"bytes_up": 3}, ""),
        ({"cloud_not_asked": 1, "prompt_tokens_left_out": 0}, "cloud not asked"),
        ({"prompt_tokens_left_out": 0}, "0 tokens from the cloud, 10 from the device"),
        ({"fallbacks": 1, "prompt_tokens_left_out": 0}, "10 from the device, the cloud was lost or full"),
        ({"cloud_tokens_shown": 10}, "10 tokens from the cloud, 0 from the device"),
    ],
)
def test_words_for_which_tier_gave_what(counters: dict[str, int], told: str) -> None:
    found = origins.words(make_summary(counters=counters))
    assert told in found
    assert bool(told) == bool(found)


def test_every_phase_has_a_colour_and_a_letter_of_its_own() -> None:
    assert set(waterfall.COLOURS) == set(waterfall.LETTERS) == set(Phase)
    assert len(set(waterfall.COLOURS.values())) == len(set(waterfall.LETTERS.values())) == len(Phase)


def test_a_request_without_rounds_is_drawn() -> None:
    summary = make_summary(rounds=(), phases_s={}, hidden_phases_s={}, counters={}, error_type="TooManySessions")
    assert any("failed: TooManySessions" in line for line in drawn(summary, 80))


def test_json_comes_back_as_it_went() -> None:
    summary = make_summary()
    assert summary_json.parse(json.loads(json.dumps(summary_json.with_rounds(summary)))) == summary


def test_malformed_json_names_the_field() -> None:
    block = summary_json.with_rounds(make_summary())
    del block["rounds"]
    with pytest.raises(errors.ProtocolError, match="rounds"):
        summary_json.parse(block)
    with pytest.raises(errors.ProtocolError, match="nonsense"):
        summary_json.parse({**summary_json.with_rounds(make_summary()), "phases_s": {"nonsense": 1.0}})


def samples(device_metrics: metrics.DeviceMetrics) -> dict[tuple[str, str], float]:
    body, content_type = device_metrics.render()
    assert content_type.startswith("text/plain")
    found = {}
    for family in parser.text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            rest = {k: v for k, v in sample.labels.items() if k not in ("model_name", "strategy")}
            found[sample.name, ",".join(f"{k}={v}" for k, v in sorted(rest.items()))] = sample.value
    return found


def test_metrics_have_vllms_meanings() -> None:
    device_metrics = metrics.DeviceMetrics(model="demo", strategy="Hat")
    device_metrics.observe(make_summary())
    device_metrics.observe(make_summary(error_type="UnavailableError", finish_reason=None, ttft_s=None, tpot_s=None))
    device_metrics.set_gauges(running=2, waiting=1, kv_used_share=0.25)
    found = samples(device_metrics)
    assert found["milliner_request_success_total", "finished_reason=stop"] == 1
    assert found["milliner_request_failure_total", "error_type=UnavailableError"] == 1
    assert found["milliner_time_to_first_token_seconds_count", ""] == 1
    assert found["milliner_time_to_first_token_seconds_bucket", "le=0.25"] == 0
    assert found["milliner_time_to_first_token_seconds_bucket", "le=0.5"] == 1
    assert found["milliner_inter_token_latency_seconds_count", ""] == 6
    assert found["milliner_generation_tokens_total", ""] == 20
    assert found["milliner_num_requests_running", ""] == 2
    assert found["milliner_num_requests_waiting", ""] == 1
    assert found["milliner_kv_cache_usage_perc", ""] == 0.25
    drafts = found["milliner_spec_decode_num_drafts_total", ""]
    accepted = found["milliner_spec_decode_num_accepted_tokens_total", ""]
    assert 1 + accepted / drafts == make_summary().acceptance_length
    per_position = [
        found["milliner_spec_decode_num_accepted_tokens_per_pos_total", f"position={position}"] for position in (0, 1)
    ]
    assert sum(per_position) == accepted
    assert found["milliner_link_bytes_total", "direction=up"] == 2000
    assert found["milliner_rollbacks_total", ""] == 4
    assert found["milliner_recoveries_total", ""] == 0
    assert found["milliner_phase_seconds_total", "hidden=true,phase=draft"] == pytest.approx(0.18)


def test_openmetrics_carries_trace_ids() -> None:
    device_metrics = metrics.DeviceMetrics(model="demo", strategy="Hat")
    device_metrics.observe(make_summary())
    body, content_type = device_metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert b'trace_id="4bf92f3577b34da6a3ce929d0e0e4736"' in body


def make_frame(traceparent: str) -> types.HiddenFrame:
    return types.HiddenFrame(
        session_id="s",
        round=4,
        commit_pos=10,
        start_pos=10,
        kind=types.FrameKind.VERIFY,
        payloads=(types.Payload(types.Codec.FLOAT16, 3, b""),),
        reply_positions=types.ReplyPositions.ALL,
        reply_codec=types.Codec.FLOAT16,
        traceparent=traceparent,
    )


def make_reply() -> types.HiddenReply:
    return types.HiddenReply(
        session_id="s",
        round=4,
        start_pos=10,
        kv_len=13,
        payload=None,
        queue_s=0.010,
        compute_s=0.030,
        batched_tokens=9,
        load=types.LoadReport(),
        codec_s=0.002,
    )


def test_cloud_spans_join_the_trace_of_the_frame() -> None:
    traced = tracing.set_up(tier="cloud")
    spans = cloud_span.CloudSpans(traced.tracer, wall_ns=lambda: 1_000_000_000)
    spans.answered(make_frame("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), make_reply())
    queue, pack, forward, frame = traced.recent.spans(trace_id="4bf92f3577b34da6a3ce929d0e0e4736")
    assert [span.name for span in (queue, pack, forward, frame)] == ["queue", "pack", "cloud_forward", "cloud Verify"]
    assert frame.parent is not None
    assert f"{frame.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert frame.end_time == forward.end_time == 1_000_000_000
    assert queue.start_time == frame.start_time == 1_000_000_000 - 42_000_000
    assert (frame.attributes or {})[names.BATCHED_TOKENS] == 9


def test_cloud_spans_of_refused_and_of_untraced_frames() -> None:
    traced = tracing.set_up(tier="cloud")
    spans = cloud_span.CloudSpans(traced.tracer)
    spans.answered(make_frame(""), make_reply())
    assert traced.recent.spans() == ()
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    spans.failed(make_frame(traceparent), errors.KVCacheFull("full"), duration_s=0.001)
    (refused,) = traced.recent.spans()
    assert not refused.status.is_ok
    assert (refused.attributes or {})[names.ERROR_TYPE] == "KVCacheFull"
