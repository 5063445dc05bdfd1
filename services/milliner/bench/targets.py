"""Targets beside what a run measured, and which ones preset paper-wifi has (docs/algorithms.md, targets). Pure.

A figure that the run did not measure is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from milliner.bench import cells, plan, summary

Name = plan.StrategyName

LONG_PROMPT_TOKENS = 2048
OPTIMUM_PROMPT_TOKENS = (512, LONG_PROMPT_TOKENS)  # where Hat's TTFT is held against the optimum

GROUP_COLUMNS = 22  # wide enough for each group's name


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A figure that is asked for: at most (or, with `at_least`, at least) `limit`. `group` and `case`: in headlines."""

    group: str
    case: str
    name: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    @property
    def label(self) -> str:
        return f"{self.name} {'≥' if self.at_least else '≤'} {self.limit:g}"

    @property
    def verdict(self) -> str:
        return f"{self.measured:.3f} {'met' if self.met else 'MISSED'}"


def targets(seen: summary.Observations, optima: Mapping[tuple[str, int], float]) -> list[Target]:
    """What is asked of preset paper-wifi, as far as this run measured it."""
    found: list[Target] = []
    for codec, share in (("float16", 0.85), ("int8", 0.48), ("int4", 0.38)):
        for length in OPTIMUM_PROMPT_TOKENS:
            if hat := seen.of(Name.HAT, codec=codec, prompt_tokens=length):
                ratio = summary.ttft_p50_s(hat) / optima[codec, length]
                found.append(
                    Target(
                        "Hat TTFT / optimum", f"{codec} {length}", f"Hat {codec} {length} TTFT / optimum", ratio, 1.10
                    )
                )
        hat = seen.of(Name.HAT, codec=codec, prompt_tokens=LONG_PROMPT_TOKENS)
        base = seen.of(Name.USHAPE, codec="float16", prompt_tokens=LONG_PROMPT_TOKENS)
        if hat and base:
            ratio = summary.ttft_p50_s(hat) / summary.ttft_p50_s(base)
            found.append(Target("Hat TTFT / UShape", codec, f"Hat {codec} 2048 TTFT / UShape float16", ratio, share))
    for codec, agreement in (("int8", 0.99), ("int4", 0.985)):
        measured = cells.token_agreement(seen.of(Name.HAT, codec=codec))
        if measured is not None:
            found.append(
                Target(
                    "Hat drafts, answers",
                    f"{codec} agreement",
                    f"Hat {codec} token agreement",
                    measured,
                    agreement,
                    at_least=True,
                )
            )
    for temperature, share in ((0.0, 0.45), (0.8, 0.50)):
        hat = seen.of(Name.HAT, codec="float16", temperature=temperature)
        base = seen.of(Name.USHAPE, codec="float16", temperature=temperature)
        if hat and base:
            ratio = summary.tbt_p50_s(hat) / summary.tbt_p50_s(base)
            found.append(
                Target("Hat TBT / UShape", f"T{temperature:g}", f"Hat TBT / UShape T{temperature:g}", ratio, share)
            )
    if (hidden := cells.hidden_draft_share(seen.of(Name.HAT))) is not None:
        found.append(
            Target("Hat drafts, answers", "hidden drafting", "Hat hidden drafting share", hidden, 0.60, at_least=True)
        )
    for baseline in (Name.USARATHI, Name.UMEDUSA):
        for figure, name in ((summary.ttft_p50_s, "TTFT"), (summary.tbt_p50_s, "TBT")):
            if ratios := summary.over(seen, baseline, figure, only=Name.HAT):
                label = f"Hat {name} / {baseline}, worst cell"
                found.append(Target("Hat / others", f"{name} / {baseline}", label, max(ratios.values()), 1.0))
    return found


def headlines(found: Sequence[Target]) -> list[str]:
    """A line per group: each figure beside what is asked of it; of those with one limit the nearest to missing it."""
    missed = sum(not target.met for target in found)
    lines = [f"{len(found) - missed} of {len(found)} targets met" + (f", {missed} MISSED" if missed else "")]
    for group in dict.fromkeys(target.group for target in found):
        members = [target for target in found if target.group == group]
        limits = dict.fromkeys((target.limit, target.at_least) for target in members)
        parts = [_nearest([t for t in members if (t.limit, t.at_least) == limit]) for limit in limits]
        lines.append(f"{group:<{GROUP_COLUMNS}}{' · '.join(parts)}")
    return lines if found else []


def _nearest(alike: Sequence[Target]) -> str:
    worst = (min if alike[0].at_least else max)(alike, key=lambda target: target.measured)
    others = f" (worst of {len(alike)})" if len(alike) > 1 else ""
    sign = "≥" if worst.at_least else "≤"
    return f"{worst.case} {worst.measured:.3f} {sign} {worst.limit:g}{'' if worst.met else ' MISSED'}{others}"
