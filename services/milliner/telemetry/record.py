"""`RequestRecord`: one request's phases, tokens and counters while it runs, and its spans.

Whoever accepts a request opens a record and finishes it; the strategy reports rounds, phases and emissions to it.
Durations come from the clock that the caller passes (virtual in the simulator). One wall-clock anchor is read per
request: every span's start and end is that anchor plus a duration, so clocks of two hosts are never compared.

Used from the event loop only.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from opentelemetry import context as otel_context
from opentelemetry import trace

from milliner.core import ports
from milliner.telemetry import attributes as names
from milliner.telemetry import request_spans
from milliner.telemetry.phases import Phase
from milliner.telemetry.request_spans import AttributeValue
from milliner.telemetry.summary import PhaseSpan, RequestSummary, RoundSummary

__all__ = ["AttributeValue", "RequestRecord", "RequestSummary"]

Operation = Literal["chat", "text_completion"]


class _Round:
    """An open round and the phases so far."""

    __slots__ = ("cursor_s", "emitted_tokens", "index", "kind", "phases", "start_s")

    def __init__(self, index: int, kind: str, *, start_s: float) -> None:
        self.index = index
        self.kind = kind
        self.start_s = start_s
        self.cursor_s = start_s  # end of the last phase on the critical path
        self.phases: list[PhaseSpan] = []
        self.emitted_tokens = 0


class RequestRecord:
    """See the module. `prompt_tokens` may be set later, once the prompt is tokenized.

    Args:
        clock: where durations come from.
        operation: `chat` or `text_completion`; first word of the root span's name.
        tracer: defaults to the global provider's tracer `milliner`.
        parent: context holding the caller's span (from its `traceparent` header).
        attributes: further attributes of the root span; never prompt text.
        wall_ns: wall clock in nanoseconds since the epoch, read once.
    """

    def __init__(
        self,
        *,
        clock: ports.Clock,
        request_id: str,
        operation: Operation,
        model: str,
        strategy: str,
        prompt_tokens: int = 0,
        tracer: trace.Tracer | None = None,
        parent: otel_context.Context | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.request_id = request_id
        self.operation: Operation = operation
        self.model = model
        self.strategy = strategy
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0  # of the prompt: nobody had to compute them for this request; the strategy says so
        self._clock = clock
        self._start_s = clock.now()
        self._spans = request_spans.RequestSpans(
            f"{operation} {model}",
            tracer=tracer if tracer is not None else trace.get_tracer("milliner"),
            parent=parent if parent is not None else otel_context.Context(),
            attributes={
                names.OPERATION_NAME: operation,
                names.PROVIDER_NAME: names.PROVIDER,
                names.REQUEST_MODEL: model,
                names.STRATEGY: strategy,
                **(attributes or {}),
            },
            anchor_ns=wall_ns(),
        )
        self._round: _Round | None = None
        self._rounds: list[RoundSummary] = []
        self._outside: list[PhaseSpan] = []
        self._outside_cursor_s = 0.0
        self._nested_s: list[float] = []  # per open `phase`, seconds that inner phases took out of it
        self._emissions: list[tuple[float, int]] = []
        self._counters: collections.Counter[str] = collections.Counter()
        self._summary: RequestSummary | None = None

    # -- rounds and phases -------------------------------------------------------------------------------------

    def start_round(self, index: int, kind: str) -> None:
        """Opens a round; one that is still open ends first. Prefill is round 0 with kind `prefill`."""
        self.end_round()
        start_s = self._elapsed_s()
        self._spans.start_round(index, kind, start_s=start_s)
        self._round = _Round(index, kind, start_s=start_s)

    def rename_round(self, kind: str) -> None:
        """The open round is of another kind than was expected when it began."""
        if self._round is not None and self._round.kind != kind:
            self._round.kind = kind
            self._spans.rename_round(kind)

    def end_round(self) -> None:
        """Ends the open round; nothing happens where none is open."""
        if (open_round := self._round) is None:
            return
        self._round = None
        end_s = self._elapsed_s()
        self._spans.end_round(emitted_tokens=open_round.emitted_tokens, end_s=end_s)
        self._outside_cursor_s = end_s
        self._rounds.append(
            RoundSummary(
                index=open_round.index,
                kind=open_round.kind,
                start_s=open_round.start_s,
                duration_s=end_s - open_round.start_s,
                emitted_tokens=open_round.emitted_tokens,
                phases=tuple(open_round.phases),
            )
        )

    @contextlib.contextmanager
    def phase(self, phase: Phase, **attributes: AttributeValue) -> Iterator[None]:
        """Measures a phase of this tier on the critical path. A phase inside it is taken out of its time."""
        start_s = self._elapsed_s()
        self._nested_s.append(0.0)
        try:
            yield
        finally:
            elapsed_s = self._elapsed_s() - start_s
            own_s = max(0.0, elapsed_s - self._nested_s.pop())
            if self._nested_s:
                self._nested_s[-1] += elapsed_s
            self._place(PhaseSpan(phase, start_s, own_s), attributes, end_s=start_s + elapsed_s)

    def add(self, phase: Phase, duration_s: float, *, hidden: bool = False, **attributes: AttributeValue) -> None:
        """Adds a duration that the other tier reported, or that was measured elsewhere.

        On the critical path it is laid after the phase before it; `hidden` ones overlapped with other phases: they
        are laid so that they end now, shown but never summed.
        """
        if hidden:
            start_s = max(0.0, self._elapsed_s() - duration_s)
            self._place(PhaseSpan(phase, start_s, duration_s, hidden=True), attributes, end_s=start_s + duration_s)
            return
        self._lay(phase, duration_s, attributes)

    def add_round_trip(
        self, elapsed_s: float, *, queue_s: float, compute_s: float, codec_s: float = 0.0, batched_tokens: int = 0
    ) -> None:
        """Splits a wait for the cloud into network, queue, cloud_forward and pack, which sum to `elapsed_s`.

        `elapsed_s` was measured here, the others were reported by the cloud. Where the cloud worked longer than we
        waited (it had begun while this tier was busy), the reported durations shrink in proportion and the spans
        keep the reported figure as an attribute.
        """
        reported = (
            (Phase.QUEUE, queue_s),
            (Phase.CLOUD_FORWARD, compute_s),
            (Phase.PACK, codec_s),
        )
        reported_s = sum(duration_s for _, duration_s in reported)
        scale = min(1.0, elapsed_s / reported_s) if reported_s > 0.0 else 1.0
        self.add(Phase.NETWORK, max(0.0, elapsed_s - reported_s))
        for phase, duration_s in reported:
            if duration_s > 0.0:
                attributes: dict[str, AttributeValue] = {names.TIER: "cloud", names.PHASE_REPORTED_S: duration_s}
                if phase is Phase.CLOUD_FORWARD:
                    attributes[names.BATCHED_TOKENS] = batched_tokens
                self._lay(phase, duration_s * scale, attributes)

    @property
    def traceparent(self) -> str:
        """W3C `traceparent` of the open round (of the request between rounds), or "" where nothing is traced."""
        return self._spans.traceparent

    def spent_s(self, phase: Phase) -> float:
        """Seconds of this phase on the open round's critical path so far; 0 between rounds."""
        spans = self._round.phases if self._round is not None else []
        return sum(span.duration_s for span in spans if span.phase is phase and not span.hidden)

    # -- results -----------------------------------------------------------------------------------------------

    def emitted(self, num_tokens: int) -> None:
        """`num_tokens` of the answer became final now. The *strategy* says so, just before it yields them."""
        if num_tokens <= 0:
            return
        self._emissions.append((self._elapsed_s(), num_tokens))
        if self._round is not None:
            self._round.emitted_tokens += num_tokens

    def count(self, **counters: int) -> None:
        """Adds to counters: num_drafted, num_accepted, num_rounds (verifications), num_drafted_rounds,
        num_hidden_rounds, bytes_up, bytes_down, recoveries, rollbacks, fallbacks, or others of a strategy's own."""
        self._counters.update(counters)

    def finish(self, *, finish_reason: str | None, error: BaseException | None = None) -> RequestSummary:
        """Ends all open spans and sums up. A second call changes nothing and returns the same summary."""
        if self._summary is not None:
            return self._summary
        self.end_round()
        duration_s = self._elapsed_s()
        self._summary = self._summarise(duration_s, finish_reason, error)
        self._spans.end(self._summary, error)
        return self._summary

    # -- inside ------------------------------------------------------------------------------------------------

    def _elapsed_s(self) -> float:
        return self._clock.now() - self._start_s

    def _lay(self, phase: Phase, duration_s: float, attributes: Mapping[str, AttributeValue]) -> None:
        start_s = self._round.cursor_s if self._round is not None else self._outside_cursor_s
        if self._nested_s:
            self._nested_s[-1] += duration_s
        self._place(PhaseSpan(phase, start_s, duration_s), attributes, end_s=start_s + duration_s)

    def _place(self, span: PhaseSpan, attributes: Mapping[str, AttributeValue], *, end_s: float) -> None:
        open_round = self._round
        if open_round is not None:
            open_round.phases.append(span)
            if not span.hidden:
                open_round.cursor_s = max(open_round.cursor_s, end_s)
        else:
            self._outside.append(span)
            if not span.hidden:
                self._outside_cursor_s = max(self._outside_cursor_s, end_s)
        self._spans.phase(span, attributes, end_s=end_s)

    def _summarise(self, duration_s: float, finish_reason: str | None, error: BaseException | None) -> RequestSummary:
        phases_s: dict[Phase, float] = {}
        hidden_s: dict[Phase, float] = {}
        spans = [span for round_ in self._rounds for span in round_.phases] + self._outside
        for span in spans:
            sums = hidden_s if span.hidden else phases_s
            sums[span.phase] = sums.get(span.phase, 0.0) + span.duration_s
        times = [at_s for at_s, _ in self._emissions]
        generated = sum(num_tokens for _, num_tokens in self._emissions)
        return RequestSummary(
            request_id=self.request_id,
            operation=self.operation,
            model=self.model,
            strategy=self.strategy,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=generated,
            finish_reason=finish_reason,
            error_type=type(error).__name__ if error is not None else None,
            duration_s=duration_s,
            ttft_s=times[0] if times else None,
            tbt_s=tuple(later - earlier for earlier, later in itertools.pairwise(times)),
            tpot_s=(times[-1] - times[0]) / (generated - 1) if generated > 1 else None,
            phases_s={phase: phases_s[phase] for phase in Phase if phase in phases_s},
            hidden_phases_s={phase: hidden_s[phase] for phase in Phase if phase in hidden_s},
            counters=dict(self._counters),
            rounds=tuple(self._rounds),
            outside_rounds=tuple(self._outside),
            trace_id=self._spans.trace_id,
        )
