"""Modelled durations of a device's submodels, for devices that are emulated on other hardware."""

from __future__ import annotations

import dataclasses

from milliner.core import compute


@dataclasses.dataclass(frozen=True, slots=True)
class DeviceCosts:
    """One draft step is `shallow` + `adapter`; each further branch of a batched step costs `per_branch_s`.

    `adapter` includes lm_head (its `per_token_s` is what a prompt position costs the adapter without lm_head),
    `head` is final norm and lm_head over verified positions, `medusa` all heads together.
    """

    shallow: compute.ComputeCost
    adapter: compute.ComputeCost
    head: compute.ComputeCost
    medusa: compute.ComputeCost
    per_branch_s: float = 0.0

    def draft_step_s(self, *, num_shallow: int, num_drafting: int, num_caught_up: int) -> float:
        """A batched step: shallow layers over `num_shallow` nodes, the adapter over `num_drafting` of them and over
        `num_caught_up` committed positions that it had not seen."""
        seconds = self.adapter.fixed_s + self.adapter.per_token_s * num_caught_up
        if num_shallow > 0:
            seconds += self.shallow.duration_s(1)
        return seconds + self.per_branch_s * (max(num_shallow, num_drafting) - 1)

    def prepare_s(self, num_nodes: int) -> float:
        """Shallow layers over a batch of branches, without drafting."""
        return self.shallow.duration_s(1) + self.per_branch_s * (num_nodes - 1)
