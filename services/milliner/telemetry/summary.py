"""What is left of a request when it has ended: plain numbers for metrics, benches, the waterfall and the HTTP block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from milliner.telemetry.phases import Phase


@dataclasses.dataclass(frozen=True, slots=True)
class PhaseSpan:
    """One phase of a round. `start_s` counts from the request's start; a hidden phase overlapped with others."""

    phase: Phase
    start_s: float
    duration_s: float
    hidden: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RoundSummary:
    """One round: prefill is round 0 with kind `prefill`. `emitted_tokens` became final within it."""

    index: int
    kind: str
    start_s: float
    duration_s: float
    emitted_tokens: int
    phases: tuple[PhaseSpan, ...]

    @property
    def attributed_s(self) -> float:
        """Seconds that the phases on the critical path explain."""
        return sum(span.duration_s for span in self.phases if not span.hidden)


@dataclasses.dataclass(frozen=True, slots=True)
class RequestSummary:
    """Durations in seconds, from the request's start. `None` where a figure does not exist (no token, no draft).

    A round may emit several tokens at once. `tbt_s` are the gaps between *emissions* (what a reader of the stream
    waits for); `tpot_s` is (last − first emission) / (tokens − 1), the mean time per token.
    """

    request_id: str
    operation: str
    model: str
    strategy: str
    prompt_tokens: int
    generated_tokens: int
    finish_reason: str | None
    error_type: str | None
    duration_s: float
    ttft_s: float | None
    tbt_s: tuple[float, ...]
    tpot_s: float | None
    phases_s: Mapping[Phase, float]  # on the critical path, over all rounds
    hidden_phases_s: Mapping[Phase, float]  # overlapped with the above
    counters: Mapping[str, int]
    rounds: tuple[RoundSummary, ...]
    outside_rounds: tuple[PhaseSpan, ...]  # tokenize, and whatever else ran before or between rounds
    trace_id: str = ""
    cached_tokens: int = 0  # of the prompt, computed for an earlier request

    @property
    def verify_rounds(self) -> int:
        """Rounds after prefill; a strategy that counts `num_rounds` itself is believed."""
        counted = self.counters.get("num_rounds")
        return counted if counted is not None else sum(1 for r in self.rounds if r.kind != "prefill")

    @property
    def acceptance_length(self) -> float | None:
        """Accepted drafts per verification + 1; `None` where nothing was drafted."""
        if not self.counters.get("num_drafted") or not self.verify_rounds:
            return None
        return 1.0 + self.counters.get("num_accepted", 0) / self.verify_rounds

    @property
    def attributed_s(self) -> float:
        """Seconds that phases on the critical path explain; compare with `duration_s`."""
        return sum(self.phases_s.values())

    def to_json(self) -> dict[str, object]:
        """JSON-ready, without the rounds' inner phases (a long answer has thousands)."""
        return {
            "request_id": self.request_id,
            "operation": self.operation,
            "model": self.model,
            "strategy": self.strategy,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "generated_tokens": self.generated_tokens,
            "finish_reason": self.finish_reason,
            "error_type": self.error_type,
            "duration_s": self.duration_s,
            "ttft_s": self.ttft_s,
            "tbt_s": list(self.tbt_s),
            "tpot_s": self.tpot_s,
            "acceptance_length": self.acceptance_length,
            "phases_s": {str(phase): seconds for phase, seconds in self.phases_s.items()},
            "hidden_phases_s": {str(phase): seconds for phase, seconds in self.hidden_phases_s.items()},
            "counters": dict(self.counters),
            "num_rounds": len(self.rounds),
            "trace_id": self.trace_id,
        }
