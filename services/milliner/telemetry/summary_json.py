"""`RequestSummary` as JSON and back: the device writes it into an answer's `milliner` block, the CLI draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milliner.core import errors
from milliner.telemetry.phases import Phase
from milliner.telemetry.summary import PhaseSpan, RequestSummary, RoundSummary


def with_rounds(summary: RequestSummary) -> dict[str, object]:
    """`RequestSummary.to_json` and beside it every round with its phases."""
    return {
        **summary.to_json(),
        "rounds": [
            {
                "index": round_.index,
                "kind": round_.kind,
                "start_s": round_.start_s,
                "duration_s": round_.duration_s,
                "emitted_tokens": round_.emitted_tokens,
                "phases": [_span_json(span) for span in round_.phases],
            }
            for round_ in summary.rounds
        ],
        "outside_rounds": [_span_json(span) for span in summary.outside_rounds],
    }


def parse(block: Mapping[str, Any]) -> RequestSummary:
    """The inverse of `with_rounds`. Raises `ProtocolError` naming the first field that is missing or malformed."""
    try:
        return RequestSummary(
            request_id=str(block["request_id"]),
            operation=str(block["operation"]),
            model=str(block["model"]),
            strategy=str(block["strategy"]),
            prompt_tokens=int(block["prompt_tokens"]),
            generated_tokens=int(block["generated_tokens"]),
            finish_reason=block["finish_reason"],
            error_type=block["error_type"],
            duration_s=float(block["duration_s"]),
            ttft_s=block["ttft_s"],
            tbt_s=tuple(block["tbt_s"]),
            tpot_s=block["tpot_s"],
            phases_s={Phase(name): float(seconds) for name, seconds in block["phases_s"].items()},
            hidden_phases_s={Phase(name): float(seconds) for name, seconds in block["hidden_phases_s"].items()},
            counters={str(name): int(value) for name, value in block["counters"].items()},
            rounds=tuple(_parse_round(round_) for round_ in block["rounds"]),
            outside_rounds=tuple(_parse_span(span) for span in block["outside_rounds"]),
            trace_id=str(block["trace_id"]),
            cached_tokens=int(block["cached_tokens"]),
        )
    except KeyError as error:
        raise errors.ProtocolError("missing in the device's answer", field=f"milliner.{error.args[0]}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise errors.ProtocolError(f"malformed in the device's answer: {error}", field="milliner") from error


def _span_json(span: PhaseSpan) -> dict[str, object]:
    return {
        "phase": span.phase.value,
        "start_s": span.start_s,
        "duration_s": span.duration_s,
        "hidden": span.hidden,
    }


def _parse_span(block: Mapping[str, Any]) -> PhaseSpan:
    return PhaseSpan(
        Phase(block["phase"]), float(block["start_s"]), float(block["duration_s"]), hidden=bool(block["hidden"])
    )


def _parse_round(block: Mapping[str, Any]) -> RoundSummary:
    return RoundSummary(
        index=int(block["index"]),
        kind=str(block["kind"]),
        start_s=float(block["start_s"]),
        duration_s=float(block["duration_s"]),
        emitted_tokens=int(block["emitted_tokens"]),
        phases=tuple(_parse_span(span) for span in block["phases"]),
    )
