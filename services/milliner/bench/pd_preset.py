"""Constants of preset pd, and what they allow: a whole model on an Orin-class device and on an A6000-class cloud. Pure.

Bounds: docs/algorithms.md, "P/D-Device". Everything is multiplied by `time_scale` alike, so that ratios hold on
machines too slow for the real durations.
"""

from __future__ import annotations

import dataclasses

from milliner.core import compute

_DEVICE = compute.GenerationCost(prompt_token_s=2e-3, step_s=40e-3)
_CLOUD = compute.ComputeCost(fixed_s=24e-3, per_token_s=210e-6)


@dataclasses.dataclass(frozen=True, slots=True)
class PDPreset:
    """Durations in seconds, bandwidths in bytes per second. `sequences` is how many the cloud goes on with at once;
    `tpot_s` and `ttft_s` the aims for the times per output token and to the first. Where prompts are refined, at least
    `least_kept` of them is kept: the topology's default."""

    device: compute.GenerationCost = _DEVICE
    cloud: compute.ComputeCost = _CLOUD
    sequences: int = 8
    uplink_bytes_per_s: float = 10e6
    downlink_bytes_per_s: float = 20e6
    round_trip_s: float = 20e-3
    jitter_s: float = 2e-3
    tpot_s: float = 50e-3
    ttft_s: float = 2.0
    least_kept: float = 0.3
    time_scale: float = 1.0

    def scaled(self, factor: float) -> PDPreset:
        """The same world, `factor` times as slow."""
        return PDPreset(
            device=compute.GenerationCost(
                prompt_token_s=self.device.prompt_token_s * factor, step_s=self.device.step_s * factor
            ),
            cloud=compute.ComputeCost(fixed_s=self.cloud.fixed_s * factor, per_token_s=self.cloud.per_token_s * factor),
            sequences=self.sequences,
            uplink_bytes_per_s=self.uplink_bytes_per_s / factor,
            downlink_bytes_per_s=self.downlink_bytes_per_s / factor,
            round_trip_s=self.round_trip_s * factor,
            jitter_s=self.jitter_s * factor,
            tpot_s=self.tpot_s * factor,
            ttft_s=self.ttft_s * factor,
            least_kept=self.least_kept,
            time_scale=self.time_scale * factor,
        )

    def first_token_s(self, prompt_tokens: int) -> float:
        """The soonest that the cloud's first token can come: the way, and the prompt's pass."""
        return self.round_trip_s + self.cloud.duration_s(prompt_tokens)

    def cloud_tokens_optimum(self, prompt_tokens: int, *, kept: float = 1.0) -> float:
        """The fewest tokens of the cloud that leave no gap above `tpot_s`, as a real number; for a device that sees the
        share `kept` of the prompt and never waits."""
        ready_s = kept * prompt_tokens * self.device.prompt_token_s + self.device.step_s
        gain_s = self.tpot_s - self.device.prompt_token_s
        return max(1.0, (ready_s - self.first_token_s(prompt_tokens)) / gain_s)

    def requests_per_s(self, *, prompt_tokens: int, cloud_tokens: float) -> float:
        """What a saturated cloud can serve: each token in a pass that it shares with the other sequences, the prompt's
        tokens on top of one."""
        tokens_s = self.cloud.per_token_s * (prompt_tokens + cloud_tokens)
        return 1.0 / (tokens_s + self.cloud.fixed_s * cloud_tokens / self.sequences)
