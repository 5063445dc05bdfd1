"""`runner.System` in virtual time: the measured variants over the modelled device and cloud."""

from __future__ import annotations

from milliner.bench import cells, plan, presets, variants
from milliner.bench.modelled import cloud, device, language, virtual_time
from milliner.strategies import base, factory

MEDUSA_HEADS = 4  # as the demo's
MEDUSA_AGREEMENT_SHARE = 0.8  # of the adapter's agreement; arbitrary, Medusa heads guess from one state only


class ModelledSystem:
    """Each variant has a link and a cloud of its own: with one user nothing overlaps."""

    def __init__(self, preset: presets.Preset, *, agreement: float, seed: int = 0) -> None:
        self.clock = virtual_time.VirtualClock()
        self._preset = preset
        self._agreement = agreement
        self._seed = seed
        self._clouds: dict[plan.Variant, cloud.ModelledCloud] = {}
        self._generators: dict[plan.Variant, base.Generator] = {}

    def generator(self, variant: plan.Variant) -> base.Generator:
        if variant not in self._generators:
            medusa = variant.strategy is plan.StrategyName.UMEDUSA
            self._clouds[variant] = cloud.ModelledCloud(self._preset, clock=self.clock)
            self._generators[variant] = factory.build_generator(
                variants.strategy_options(variant),
                clock=self.clock,
                transport=self._clouds[variant],
                device=device.ModelledDevice(
                    self._preset,
                    clock=self.clock,
                    speech=language.Language(
                        agreement=self._agreement * (MEDUSA_AGREEMENT_SHARE if medusa else 1.0), seed=self._seed
                    ),
                    drafts=variants.drafts_with_adapter(variant.strategy),
                    num_medusa_heads=MEDUSA_HEADS if medusa else 0,
                ),
            )
        return self._generators[variant]

    async def counters(self, variant: plan.Variant) -> tuple[cells.ComputeCounters, cells.ComputeCounters]:
        if variant not in self._clouds:
            return cells.ComputeCounters(), cells.ComputeCounters()
        used = self._clouds[variant]
        return cells.ComputeCounters(), cells.ComputeCounters(calls=used.calls, busy_s=used.busy_s)
