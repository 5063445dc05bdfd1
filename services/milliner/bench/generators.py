"""The generators of a real model's variants, whatever clock and transport they run over. Used by both real systems."""

from __future__ import annotations

from collections.abc import Mapping

from milliner.bench import device_tier, plan, variants
from milliner.core import ports
from milliner.engine.device import device_model
from milliner.strategies import base, factory


class Generators:
    """One generator for each variant and the whole run, since a device keeps what it has learnt."""

    def __init__(
        self,
        *,
        clock: ports.Clock,
        transport: ports.CloudTransport,
        devices: Mapping[str, device_model.DeviceModel],
    ) -> None:
        self._clock = clock
        self._transport = transport
        self._devices = devices
        self._known: dict[plan.Variant, base.Generator] = {}

    def of(self, variant: plan.Variant) -> base.Generator:
        """The variant's generator; made when it is first asked for."""
        if variant not in self._known:
            self._known[variant] = factory.build_generator(
                variants.strategy_options(variant),
                clock=self._clock,
                transport=self._transport,
                device=self._devices[device_tier.device_of(variant.strategy)],
            )
        return self._known[variant]
