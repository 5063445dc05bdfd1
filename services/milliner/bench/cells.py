"""From requests to a row: percentiles, acceptance, bytes, agreement and overruns of one cell. Pure.

How a round that emits several tokens counts: **TBT** here is the mean time between *tokens* of a request, tokens that
become final together having no time between them; `tbt_p50_s` and `tbt_p95_s` are percentiles of it over requests.
That is what the HAT paper compares, and over a whole answer it equals **TPOT**, (last - first emission) / (tokens - 1).
`emission_gap_p50_s` and `_p95_s` are percentiles over all gaps between *emissions*: what a reader of the stream waits
for, where drafting gains nothing by itself. Bytes and cloud time are those of the whole request, prompt included,
per generated token.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from milliner.bench import plan
from milliner.engine import executor
from milliner.telemetry import summary

OVERRUN_LIMIT = 0.01  # a row with a greater share of overruns is invalid (docs/algorithms.md, targets)


@dataclasses.dataclass(frozen=True, slots=True)
class ComputeCounters:
    """An executor's counters, or what one request added to them."""

    calls: int = 0
    overruns: int = 0
    busy_s: float = 0.0

    @classmethod
    def of(cls, worker: executor.ComputeExecutor) -> ComputeCounters:
        """What an executor of this process has counted until now."""
        return cls(calls=worker.calls, overruns=worker.overruns, busy_s=worker.busy_s)

    def since(self, earlier: ComputeCounters) -> ComputeCounters:
        return ComputeCounters(
            calls=self.calls - earlier.calls,
            overruns=self.overruns - earlier.overruns,
            busy_s=self.busy_s - earlier.busy_s,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One measured request. `reference_ids` is the float32 model's greedy answer, None for sampled requests."""

    cell: plan.Cell
    summary: summary.RequestSummary
    token_ids: tuple[int, ...]
    reference_ids: tuple[int, ...] | None
    device: ComputeCounters
    cloud: ComputeCounters


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CellRow:
    """A row of the report: flat, one per cell. None: the figure does not exist."""

    strategy: str
    codec: str
    prompt_tokens: int
    temperature: float
    requests: int
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_optimum_s: float
    tbt_p50_s: float
    tbt_p95_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    emission_gap_p50_s: float
    emission_gap_p95_s: float
    acceptance_length: float | None
    bytes_up_per_token: float
    bytes_down_per_token: float
    cloud_busy_ms_per_token: float
    token_agreement: float | None
    hidden_draft_share: float | None
    compute_overrun_share: float
    ttft_over_optimum: float
    ttft_over_ushape_float16: float | None = None  # the baselines of these two are filled in by `summary.compare`
    tbt_over_ushape: float | None = None
    invalid_because: str


def row(cell: plan.Cell, observations: Sequence[Observation], *, ttft_optimum_s: float) -> CellRow:
    """The row of a cell from its requests, at least one, each of two tokens or more."""
    tokens = sum(o.summary.generated_tokens for o in observations)
    ttfts = [o.summary.ttft_s for o in observations if o.summary.ttft_s is not None]
    tpots = [o.summary.tpot_s for o in observations if o.summary.tpot_s is not None]
    tbts = [mean_gap_s(o) for o in observations]
    gaps = [gap for o in observations for gap in o.summary.tbt_s]
    device_share = overrun_share([o.device for o in observations])
    cloud_share = overrun_share([o.cloud for o in observations])
    worst_share = max(device_share, cloud_share)
    return CellRow(
        strategy=cell.variant.strategy,
        codec=cell.variant.codec,
        prompt_tokens=cell.prompt_tokens,
        temperature=cell.temperature,
        requests=len(observations),
        ttft_p50_s=percentile(ttfts, 0.5),
        ttft_p95_s=percentile(ttfts, 0.95),
        ttft_optimum_s=ttft_optimum_s,
        tbt_p50_s=percentile(tbts, 0.5),
        tbt_p95_s=percentile(tbts, 0.95),
        tpot_p50_s=percentile(tpots, 0.5),
        tpot_p95_s=percentile(tpots, 0.95),
        emission_gap_p50_s=percentile(gaps, 0.5),
        emission_gap_p95_s=percentile(gaps, 0.95),
        acceptance_length=acceptance_length(observations),
        bytes_up_per_token=_total(observations, "bytes_up") / tokens,
        bytes_down_per_token=_total(observations, "bytes_down") / tokens,
        cloud_busy_ms_per_token=1e3 * sum(o.cloud.busy_s for o in observations) / tokens,
        token_agreement=token_agreement(observations),
        hidden_draft_share=hidden_draft_share(observations),
        compute_overrun_share=worst_share,
        ttft_over_optimum=percentile(ttfts, 0.5) / ttft_optimum_s,
        invalid_because=invalid_because_of(device_share=device_share, cloud_share=cloud_share),
    )


def mean_gap_s(observation: Observation) -> float:
    """Mean time between tokens of one request: all gaps over the tokens after the first."""
    return sum(observation.summary.tbt_s) / (observation.summary.generated_tokens - 1)


def acceptance_length(observations: Sequence[Observation]) -> float | None:
    """Accepted drafts per verification round + 1; None where nothing was drafted."""
    rounds = sum(o.summary.verify_rounds for o in observations)
    if not rounds or not _total(observations, "num_drafted"):
        return None
    return 1.0 + _total(observations, "num_accepted") / rounds


def hidden_draft_share(observations: Sequence[Observation]) -> float | None:
    """Rounds whose drafting hid behind the verification before, over rounds that drafted; None without drafts."""
    drafted = _total(observations, "num_drafted_rounds")
    return _total(observations, "num_hidden_rounds") / drafted if drafted else None


def token_agreement(observations: Sequence[Observation]) -> float | None:
    """Tokens equal up to each answer's first difference, over those plus one for each answer that differs."""
    equal = differing = 0
    for observation in observations:
        if observation.reference_ids is None:
            continue
        pairs = zip(observation.token_ids, observation.reference_ids, strict=False)
        same = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
        if same is None:
            same = min(len(observation.token_ids), len(observation.reference_ids))
        equal += same
        differing += observation.token_ids != observation.reference_ids
    return equal / (equal + differing) if equal + differing else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, interpolated linearly between neighbours (numpy's default)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _total(observations: Sequence[Observation], counter: str) -> int:
    return sum(o.summary.counters.get(counter, 0) for o in observations)


def overrun_share(counters: Sequence[ComputeCounters]) -> float:
    """Share of all calls that took longer than modelled."""
    calls = sum(c.calls for c in counters)
    return sum(c.overruns for c in counters) / calls if calls else 0.0


def invalid_because_of(*, device_share: float, cloud_share: float) -> str:
    """Why a row says nothing, or ""."""
    shares = {"the device": device_share, "the cloud": cloud_share}
    told = [f"{share:.1%} of {tier}'s calls" for tier, share in shares.items() if share > OVERRUN_LIMIT]
    return f"real compute took longer than modelled in {' and '.join(told)}: raise --time-scale" if told else ""
