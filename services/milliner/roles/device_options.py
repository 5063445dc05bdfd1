"""From a device's role configuration to the values that strategies, link and compute take. Pure, torch-free."""

from __future__ import annotations

from milliner.contract import emulation, kinds, role_config
from milliner.core import compute, errors
from milliner.engine.device import costs
from milliner.strategies import options
from milliner.wire import link_schedule

_FALLBACK = "fallback.onCloudLoss"
_FREE = compute.ComputeCost(fixed_s=0.0)


def strategy_options(config: role_config.DeviceRoleConfig) -> options.HatOptions | options.UShapeOptions:
    """The strategy's options. Raises `ConfigError` for what this version does not do."""
    wanted = config.strategy
    if config.fallback.on_cloud_loss is kinds.OnCloudLoss.DRAFT_ONLY:
        raise errors.ConfigError("DraftOnly is not available in this version: use Wait or Fail", field=_FALLBACK)
    chunking = options.ChunkingOptions(
        mode=wanted.chunking.mode,
        min_tokens=wanted.chunking.min_tokens,
        max_tokens=wanted.chunking.max_tokens,
        fixed_tokens=wanted.chunking.tokens,
    )
    codec = options.CodecOptions(
        prompt=wanted.prompt_codec,
        decode=wanted.decode_codec,
        exact_tail_tokens=wanted.exact_tail_tokens,
    )
    waits = config.fallback.on_cloud_loss is kinds.OnCloudLoss.WAIT
    recovery = options.RecoveryOptions(wait_s=float(config.fallback.wait_seconds) if waits else 0.0)
    if wanted.type is kinds.StrategyType.U_SHAPE:
        return options.UShapeOptions(
            chunking=chunking, medusa=wanted.heads_path is not None, codec=codec, recovery=recovery
        )
    drafting = options.DraftingOptions(
        control=wanted.drafting.control,
        max_tokens=wanted.drafting.max_tokens,
        min_confidence=wanted.drafting.min_confidence_percent / 100.0,
        parallel_branches=wanted.drafting.parallel_branches,
    )
    return options.HatOptions(chunking=chunking, drafting=drafting, codec=codec, recovery=recovery)


def link_conditions(emulated: emulation.DeviceEmulation | None, *, seed: int) -> link_schedule.LinkConditions | None:
    """The emulated link's conditions, or None for the real link."""
    link = emulated.link if emulated is not None else None
    if link is None:
        return None
    return link_schedule.LinkConditions(
        uplink_bytes_per_s=link.uplink_bytes_per_s,
        downlink_bytes_per_s=link.downlink_bytes_per_s,
        round_trip_s=link.round_trip_s,
        jitter_s=link.jitter_s,
        loss_share=link.loss_share,
        seed=seed,
    )


def device_costs(config: role_config.DeviceRoleConfig) -> costs.DeviceCosts | None:
    """Modelled durations of the submodels, or None for the real device; a submodel without one costs nothing extra."""
    modelled = config.emulation.compute if config.emulation is not None else None
    if modelled is None:
        return None
    return costs.DeviceCosts(
        shallow=_cost(modelled.shallow),
        adapter=_cost(modelled.adapter),
        head=_cost(modelled.head),
        medusa=_cost(modelled.medusa),
        per_branch_s=modelled.per_branch_microseconds / 1e6,
    )


def _cost(call: emulation.CallCost | None) -> compute.ComputeCost:
    if call is None:
        return _FREE
    return compute.ComputeCost(fixed_s=call.fixed_microseconds / 1e6, per_token_s=call.per_token_microseconds / 1e6)
