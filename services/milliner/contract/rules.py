"""Rules that join several fields of a topology, in the words that admission uses; each becomes a CEL rule of the CRD.

Pure: takes the parsed spec, returns problems. What only the model can tell is in `model_checks`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from milliner.contract import cloud, devices, errors, kinds, strategy
from milliner.contract import spec as spec_module

MAX_POOLS = 63  # arbitrary, kept small: CEL's cost of the uniqueness rule grows with the square of it

OPTION_GROUPS = {
    kinds.StrategyType.HAT: "hat",
    kinds.StrategyType.U_SHAPE: "uShape",
    kinds.StrategyType.PD_DEVICE: "pdDevice",
}
_EXTERNAL_TYPES = (kinds.StrategyType.PD_DEVICE, kinds.StrategyType.CLOUD_ONLY)
_OWN_MODEL_TYPES = (kinds.StrategyType.PD_DEVICE, kinds.StrategyType.DEVICE_ONLY)


def problems(spec: spec_module.TopologySpec) -> list[errors.Problem]:
    """All problems of a spec, in document order."""
    kind = spec.strategy.type
    return [
        *_strategy(spec.strategy),
        *_cloud(spec.cloud, kind=kind),
        *_pools(spec.device_pools, kind=kind),
        *_fallback(spec),
    ]


def _strategy(chosen: strategy.StrategySpec) -> Iterator[errors.Problem]:
    groups = {"hat": chosen.hat, "uShape": chosen.u_shape, "pdDevice": chosen.pd_device}
    own_group = OPTION_GROUPS.get(chosen.type)
    for kind, group in OPTION_GROUPS.items():
        if groups[group] is None or kind is chosen.type:
            continue
        remedy = f"move the options to strategy.{own_group}" if own_group else "remove it"
        yield errors.Problem(
            f"spec.strategy.{group}",
            f"strategy.{group} is set but strategy.type is {chosen.type.value}: {remedy} or set type: {kind.value}",
        )
    for group, options in (("hat", chosen.hat), ("uShape", chosen.u_shape)):
        if options is not None:
            yield from _chunking(f"spec.strategy.{group}.chunking", options.chunking)
    if chosen.pd_device is not None:
        pacing = chosen.pd_device.pacing
        if pacing.min_interval_milliseconds > pacing.max_interval_milliseconds:
            yield errors.Problem(
                "spec.strategy.pdDevice.pacing",
                f"pacing.minIntervalMilliseconds ({pacing.min_interval_milliseconds}) is above "
                f"maxIntervalMilliseconds ({pacing.max_interval_milliseconds})",
            )


def _chunking(path: str, chunking: strategy.Chunking) -> Iterator[errors.Problem]:
    if chunking.min_tokens > chunking.max_tokens:
        yield errors.Problem(
            path, f"chunking.minTokens ({chunking.min_tokens}) is above maxTokens ({chunking.max_tokens})"
        )
    if "tokens" in chunking.model_fields_set and chunking.mode is not kinds.ChunkingMode.FIXED:
        yield errors.Problem(
            path,
            f"chunking.tokens is set but chunking.mode is {chunking.mode.value}: set mode: Fixed, or use "
            "minTokens and maxTokens with mode: Dynamic",
        )


def _cloud(tier: cloud.CloudSpec, *, kind: kinds.StrategyType) -> Iterator[errors.Problem]:
    if tier.replicas is not None and tier.scaling is not None:
        yield errors.Problem("spec.cloud", "cloud.replicas and cloud.scaling are both set: with scaling, drop replicas")
    if tier.scaling is not None and tier.scaling.min_replicas > tier.scaling.max_replicas:
        yield errors.Problem(
            "spec.cloud.scaling",
            f"scaling.minReplicas ({tier.scaling.min_replicas}) is above maxReplicas ({tier.scaling.max_replicas})",
        )
    engine = tier.engine
    if engine.type is kinds.EngineType.EXTERNAL and kind not in _EXTERNAL_TYPES:
        yield errors.Problem(
            "spec.cloud.engine.type",
            f"cloud.engine.type is External but strategy.type is {kind.value}, whose cloud computes a slice: "
            "set engine.type: Builtin, or strategy.type: PDDevice or CloudOnly",
        )
    if engine.type is kinds.EngineType.EXTERNAL and engine.external is None:
        yield errors.Problem(
            "spec.cloud.engine.external", "cloud.engine.type is External but external is not set: give external.url"
        )
    if engine.type is kinds.EngineType.BUILTIN and engine.external is not None:
        yield errors.Problem(
            "spec.cloud.engine.external",
            "cloud.engine.external is set but engine.type is Builtin: drop external or set engine.type: External",
        )


def _pools(pools: tuple[devices.DevicePool, ...], *, kind: kinds.StrategyType) -> Iterator[errors.Problem]:
    if not pools and kind is not kinds.StrategyType.CLOUD_ONLY:
        yield errors.Problem("spec.devicePools", "devicePools: at least one pool is needed (type CloudOnly needs none)")
    if len(pools) > MAX_POOLS:
        yield errors.Problem(
            "spec.devicePools", f"devicePools has {len(pools)} pools: use at most {MAX_POOLS}, or several topologies"
        )
    for name, count in Counter(pool.name for pool in pools).items():
        if count > 1:
            yield errors.Problem(
                "spec.devicePools", f"devicePools: the name {name} is used {count} times: give each pool its own"
            )
    for index, pool in enumerate(pools):
        if pool.model is not None and kind not in _OWN_MODEL_TYPES:
            yield errors.Problem(
                f"spec.devicePools[{index}].model",
                f"devicePools[{index}].model is set but strategy.type is {kind.value}, which splits spec.model: "
                "drop it, or set type: PDDevice or DeviceOnly",
            )


def _fallback(spec: spec_module.TopologySpec) -> Iterator[errors.Problem]:
    kind = spec.strategy.type
    if spec.fallback.on_cloud_loss is kinds.OnCloudLoss.DRAFT_ONLY and kind is not kinds.StrategyType.HAT:
        yield errors.Problem(
            "spec.fallback.onCloudLoss",
            f"fallback.onCloudLoss is DraftOnly but strategy.type is {kind.value}, which has no drafting model: "
            "use Wait or Fail, or set type: Hat",
        )
