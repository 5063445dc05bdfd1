"""What is asked of the cloud for a request, and how the device catches up: pure arithmetic.

**N.** The device is ready to generate token N + 1 after its prefill of the prompt and of the cloud's N tokens; until
then one of these is shown every τ seconds, from the moment T_c on at which the first one came:

    T_c + N·τ ≥ R + N/R_p + t_d    →    N = ⌈(R + t_d − T_c) / (τ − 1/R_p)⌉

with R_p the device's prefill rate, t_d its time for one token, and R when it has seen as much of the prompt's L tokens
as it needs. It may begin at once (w = 0) or wait for the cloud's selection of a share ρ of them, which comes with the
first token (w = 1); at once means that it feeds the prompt as it is until then, and only what is kept of the rest:

    w = 1:  R = T_c + ρ·L/R_p              w = 0:  R = T_c + (what is kept behind T_c·R_p)/R_p,  or L/R_p before T_c

Half of what is kept is the prompt's end (`core.refinement`), the rest counts as spread over what is before it. Without
a selection (ρ = 1) R is w·T_c + L/R_p, the flow of P/D-Device.

**The choice.** Over ρ from 1 down to the least that is allowed, and w: the cloud's seconds, prompt + N·τ_c, τ_c being
its share of a batch for one token. What crosses the link is the same for all but N tokens of a few bytes. The cheapest
one wins; of those that cost hardly more the one that keeps most of the prompt, because less changes answers; of these
the one for which the device computes least.

**When that is not the question.** A device that cannot keep the pace of τ by itself, before or after catching up,
leaves all of the answer that it may to the cloud and takes over behind it (`holds_back`): as CloudOnly, up to the
topology's limit. Where the device's own first token would come before the cloud's, the cloud is not asked (N = 0): as
DeviceOnly. Of a device that is the first but cannot keep the pace the cloud has all, if its first token is in time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from milliner.core import refinement
from milliner.strategies.pd_device import pacing

# More than the least, for estimates that are a little off: a token too few is a gap, one too many a step of the cloud.
_SPARE_SHARE = 0.01  # arbitrary
# "Hardly more": a cloud that is so little busier is no reason to leave out parts of a prompt. Arbitrary.
_WORTH_SHARE = 0.05
_GRID_PERCENT = 10  # steps of ρ; arbitrary, finer ones change N by a token or two
# Of the prompt's time in the cloud: what selecting takes at most (docs/benchmarks.md, `milliner bench refine`).
_SELECTING_SHARE = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What the device takes: `prefill_s` per token of a long chunk, `step_s` for one generated token."""

    prefill_s: float
    step_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class CloudProfile:
    """What is expected of the cloud for this prompt, in seconds; 0 where nothing was measured yet.

    `first_token_s` after the request's start; `prompt_s` and `token_s` of its compute, for the prompt and for one more
    token.
    """

    first_token_s: float = 0.0
    prompt_s: float = 0.0
    token_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """One request. `cached_tokens` of the prompt need no computing on the device; the cloud may give `most_tokens`;
    at least `least_kept` of the prompt is kept (1: it is not refined)."""

    prompt_tokens: int
    most_tokens: int
    cached_tokens: int = 0
    least_kept: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Aims:
    """Times to the first and per output token that are aimed at."""

    first_token_s: float
    token_s: float

    @property
    def shown_s(self) -> float:
        """The interval at which tokens are shown (`pacing`)."""
        return pacing.AIM_SHARE * self.token_s


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """`cloud_tokens` N, 0: the cloud is not asked; `kept_share` ρ; `waits` w; `holds_back`: the device lets the cloud
    give all N before it takes over; `explores`: nobody knows how soon the cloud answers, which a moment's patience may
    tell; `measures_steps`: nobody knows any more what the device's own tokens take, which it finds out first."""

    cloud_tokens: int
    kept_share: float = 1.0
    waits: bool = False
    holds_back: bool = False
    explores: bool = False
    measures_steps: bool = False


def choose(device: DeviceProfile, cloud: CloudProfile, task: Task, aims: Aims) -> Settings:
    """The settings of a request; see the module."""
    own_s = (task.prompt_tokens - task.cached_tokens) * device.prefill_s + device.step_s
    keeps_pace = device.step_s <= aims.token_s and device.prefill_s < aims.shown_s
    if cloud.first_token_s > (own_s if keeps_pace else max(own_s, aims.first_token_s)):
        return Settings(cloud_tokens=0)
    if not keeps_pace:
        return Settings(cloud_tokens=task.most_tokens, holds_back=True)
    found = [(_cloud_s(each, cloud), each) for each in _candidates(device, cloud, task, aims)]
    enough_s = (1.0 + _WORTH_SHARE) * min(cost_s for cost_s, _ in found)
    # The first of equals: from ρ = 1 down, and of one ρ waiting first, as the device computes less.
    return next(each for cost_s, each in found if cost_s <= enough_s)


def _candidates(device: DeviceProfile, cloud: CloudProfile, task: Task, aims: Aims) -> Iterator[Settings]:
    """From the largest ρ to the least; who waits relies on the cloud for the first token, so that must be in time."""
    for share in _shares(task.least_kept):
        for waits in (True, False):
            if waits and (share == 1.0 or not 0.0 < cloud.first_token_s <= aims.first_token_s):
                continue
            ready_s = _seen_s(device, cloud, task, kept_share=share, waits=waits) + device.step_s
            wanted = cloud_tokens(ready_s - cloud.first_token_s, interval_s=aims.shown_s, prefill_s=device.prefill_s)
            unknown = cloud.first_token_s == 0.0
            yield Settings(min(wanted, task.most_tokens), kept_share=share, waits=waits, explores=unknown)


def cloud_tokens(bridged_s: float, *, interval_s: float, prefill_s: float) -> int:
    """N that bridges `bridged_s`, when a token is shown every `interval_s` and takes the device `prefill_s` to see; at
    least 1, with a little to spare. `interval_s` is the larger one."""
    least = max(1, math.ceil(bridged_s / (interval_s - prefill_s)))
    return least + round(_SPARE_SHARE * least)


def _seen_s(device: DeviceProfile, cloud: CloudProfile, task: Task, *, kept_share: float, waits: bool) -> float:
    """R: when the device has seen what it needs of the prompt."""
    if kept_share == 1.0:
        return (task.prompt_tokens - task.cached_tokens) * device.prefill_s
    seen_tokens = task.cached_tokens
    if not waits:
        seen_tokens += math.floor(cloud.first_token_s / device.prefill_s)
        if seen_tokens >= task.prompt_tokens:
            return (task.prompt_tokens - task.cached_tokens) * device.prefill_s
    kept_tokens = kept_share * task.prompt_tokens
    end_tokens = refinement.TAIL_SHARE * kept_tokens
    before_end = task.prompt_tokens - end_tokens
    left_tokens = end_tokens + (kept_tokens - end_tokens) * max(0.0, 1.0 - seen_tokens / before_end)
    return cloud.first_token_s + min(left_tokens, task.prompt_tokens - seen_tokens) * device.prefill_s


def _cloud_s(one: Settings, cloud: CloudProfile) -> float:
    """What the settings cost: the cloud's seconds."""
    selecting_s = 0.0 if one.kept_share == 1.0 else _SELECTING_SHARE * cloud.prompt_s
    return cloud.prompt_s + selecting_s + one.cloud_tokens * cloud.token_s


def _shares(least: float) -> list[float]:
    """1, then the grid's multiples down to `least`, which is one of them."""
    least_percent = round(100 * least)
    return [1.0, *(percent / 100 for percent in range(100 - _GRID_PERCENT, least_percent, -_GRID_PERCENT))] + (
        [least_percent / 100] if least_percent < 100 else []
    )
