"""`spec`: all that is wanted of a topology, one field per group."""

from __future__ import annotations

import pydantic

from milliner.contract import base, devices, operations
from milliner.contract.cloud import CloudSpec
from milliner.contract.model import ModelSpec
from milliner.contract.strategy import StrategySpec

MAX_POOLS = 63  # arbitrary, kept small: CEL's cost of the uniqueness rule grows with the square of it


class TopologySpec(base.Model):
    """What is wanted."""

    model: ModelSpec = pydantic.Field(description="The model that is served.")
    strategy: StrategySpec = pydantic.Field(description="How it is served.")
    cloud: CloudSpec = pydantic.Field(default=CloudSpec(), description="The cloud tier.")
    device_pools: tuple[devices.DevicePool, ...] = pydantic.Field(
        default=(),
        max_length=MAX_POOLS,
        description="The device tier: 1 to 63 pools. Type CloudOnly needs none: without, one pod of a pool named "
        "gateway answers requests behind a Service.",
    )
    objectives: operations.Objectives = pydantic.Field(
        default=operations.Objectives(), description="What the controllers aim at."
    )
    fallback: operations.Fallback = pydantic.Field(
        default=operations.Fallback(), description="What a device does while no cloud replica answers."
    )
    tls: operations.Tls = pydantic.Field(default=operations.Tls(), description="Mutual TLS between the tiers.")
    tracing: operations.Tracing = pydantic.Field(default=operations.Tracing(), description="Export of traces.")
