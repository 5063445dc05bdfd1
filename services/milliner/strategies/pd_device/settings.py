"""How many tokens the cloud gives before the device can go on without a gap: pure arithmetic.

The device is ready to generate token N + 1 after its prefill of the prompt and of the cloud's N tokens; until then one
of these is shown every τ seconds, from the moment the first one came:

    T_c + N·τ ≥ w·T_c + (ρ·L + N)/R_p + t_d    →    N = ⌈(w·T_c + ρ·L/R_p + t_d − T_c) / (τ − 1/R_p)⌉

with T_c the time to the cloud's first token, L the prompt's length, ρ the share of it that the device prefills, w = 1
if it waits for the cloud's selection first, R_p the device's prefill rate, t_d its time for one token. Derived from the
flow of P/D-Device; where τ ≤ 1/R_p the device never catches up.
"""

from __future__ import annotations

import dataclasses
import math

# More than the least, for estimates that are a little off: a token too few is a gap, one too many a step of the cloud.
_SPARE_SHARE = 0.02  # arbitrary


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What the device takes: `prefill_s` per token of a long chunk, `step_s` for one generated token."""

    prefill_s: float
    step_s: float


def cloud_tokens(
    profile: DeviceProfile,
    *,
    prompt_tokens: int,
    interval_s: float,
    first_token_s: float,
    kept_share: float = 1.0,
    waits_for_selection: bool = False,
) -> int | None:
    """N for a prompt of `prompt_tokens`, shown every `interval_s`, with a little to spare; None where the device never
    catches up.

    `first_token_s` is when the cloud's first token is expected, after the request's start.
    """
    gain_s = interval_s - profile.prefill_s  # by how much each shown token brings the device nearer
    if gain_s <= 0.0:
        return None
    ready_s = kept_share * prompt_tokens * profile.prefill_s + profile.step_s
    if waits_for_selection:
        ready_s += first_token_s
    least = max(1, math.ceil((ready_s - first_token_s) / gain_s))
    return least + math.ceil(_SPARE_SHARE * least)
